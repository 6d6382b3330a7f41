-- 0001_jobs: jobs, their items, who works on them, every request's intent, every item's outcome.
-- Counters live on the checkpoints: on `jobs` they would be one row that all workers fight for.
-- job_items, item_outcomes and item_journal carry no foreign key: checking a million of them costs more than writing them, and
-- all three are only ever written under a checkpoint's lock, whose own foreign key stands for theirs.
CREATE TABLE jobs (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type            text        NOT NULL,
    provider        text        NOT NULL,
    account         text        NOT NULL DEFAULT '',
    operation       text        NOT NULL DEFAULT '',
    priority        smallint    NOT NULL DEFAULT 1,
    options         jsonb       NOT NULL DEFAULT '{}',
    state           text        NOT NULL DEFAULT 'queued',
    state_reason    text        NOT NULL DEFAULT '',
    item_count      bigint      NOT NULL DEFAULT 0,
    owner           text        NOT NULL DEFAULT '',
    idempotency_key text,
    payload_digest  text        NOT NULL,
    is_unique       boolean     NOT NULL DEFAULT false,
    rollback_of     bigint REFERENCES jobs (id) ON DELETE SET NULL,
    summary         jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    planned_at      timestamptz,
    started_at      timestamptz,
    finished_at     timestamptz,
    deadline_at     timestamptz,
    -- Set once, by the cleanup: from then on nobody takes the job up again, and it may go piece by piece.
    expiring_at     timestamptz,
    CONSTRAINT jobs_state_known CHECK (state IN
        ('queued', 'running', 'paused', 'succeeded', 'completed_with_failures', 'failed', 'cancelled')),
    CONSTRAINT jobs_priority_known CHECK (priority BETWEEN 0 AND 2),
    CONSTRAINT jobs_item_count_not_negative CHECK (item_count >= 0),
    CONSTRAINT jobs_finished_when_terminal CHECK (
        (finished_at IS NOT NULL) = (state IN ('succeeded', 'completed_with_failures', 'failed', 'cancelled'))),
    CONSTRAINT jobs_expiring_when_finished CHECK (expiring_at IS NULL OR finished_at IS NOT NULL),
    CONSTRAINT jobs_owner_idempotency_key UNIQUE (owner, idempotency_key)
);
CREATE UNIQUE INDEX jobs_payload_digest_unique_idx ON jobs (payload_digest)
    WHERE is_unique AND state IN ('queued', 'running', 'paused');
CREATE INDEX jobs_payload_digest_active_idx ON jobs (payload_digest) WHERE state IN ('queued', 'running', 'paused');
CREATE INDEX jobs_active_idx ON jobs (id) WHERE state IN ('queued', 'running', 'paused');
CREATE INDEX jobs_rollback_of_idx ON jobs (rollback_of) WHERE rollback_of IS NOT NULL;
CREATE INDEX jobs_expiring_idx ON jobs (id) WHERE expiring_at IS NOT NULL;
CREATE INDEX jobs_finished_at_idx ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- Written once by COPY, never updated. seq is unique in the job; a part holds its items in seq order.
CREATE TABLE job_items (
    job_id  bigint  NOT NULL,
    part    integer NOT NULL,
    seq     bigint  NOT NULL,
    key     text    NOT NULL,
    payload jsonb,
    PRIMARY KEY (job_id, part, seq)
);

-- due_at: someone should look at this part then. Parked: when its limit lifts; leased: when the lease ends; NULL: not before a person
-- says so (paused) or never again (ended). last_commit names the latest record, so that a lost COMMIT answer can be asked about.
CREATE TABLE batch_checkpoints (
    job_id      bigint      NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    part        integer     NOT NULL,
    kind        text        NOT NULL DEFAULT 'items',
    priority    smallint    NOT NULL,
    first_seq   bigint      NOT NULL,
    last_seq    bigint      NOT NULL,
    item_count  bigint      NOT NULL,
    cursor      bigint      NOT NULL,
    batch_no    integer     NOT NULL DEFAULT 0,
    due_at      timestamptz,
    hinted_at   timestamptz,
    wait_reason text        NOT NULL DEFAULT '',
    fence       bigint      NOT NULL DEFAULT 0,
    holder      text,
    holder_host text,
    holder_pid  integer,
    holder_started double precision,
    crashes     integer     NOT NULL DEFAULT 0,
    succeeded   bigint      NOT NULL DEFAULT 0,
    skipped     bigint      NOT NULL DEFAULT 0,
    failed      bigint      NOT NULL DEFAULT 0,
    unconfirmed bigint      NOT NULL DEFAULT 0,
    requests    bigint      NOT NULL DEFAULT 0,
    last_commit bigint,
    recorded_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (job_id, part),
    CONSTRAINT batch_checkpoints_kind_known CHECK (kind IN ('items', 'plan')),
    CONSTRAINT batch_checkpoints_cursor_in_range CHECK (cursor BETWEEN first_seq AND last_seq + 1),
    CONSTRAINT batch_checkpoints_outcomes_within_items
        CHECK (kind = 'plan' OR succeeded + skipped + failed + unconfirmed <= item_count),
    CONSTRAINT batch_checkpoints_finished_is_whole
        CHECK (finished_at IS NULL OR kind = 'plan' OR succeeded + skipped + failed + unconfirmed = item_count),
    CONSTRAINT batch_checkpoints_finished_is_never_due CHECK (finished_at IS NULL OR due_at IS NULL),
    CONSTRAINT batch_checkpoints_held_has_a_lease CHECK (holder IS NULL OR due_at IS NOT NULL)
) WITH (fillfactor = 50);
CREATE INDEX batch_checkpoints_priority_due_at_idx ON batch_checkpoints (priority, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX batch_checkpoints_holder_idx ON batch_checkpoints (holder_host) WHERE holder IS NOT NULL;

-- One row a send: the intent, committed before the request. A repetition is a row of its own with the same idempotency key.
CREATE TABLE batches (
    job_id          bigint      NOT NULL,
    part            integer     NOT NULL,
    no              integer     NOT NULL,
    first_seq       bigint      NOT NULL,
    last_seq        bigint      NOT NULL,
    seqs            bigint[],
    item_count      integer     NOT NULL,
    status          text        NOT NULL,
    idempotency_key text        NOT NULL,
    scope           text        NOT NULL,
    cost_units      integer     NOT NULL,
    requests        integer     NOT NULL,
    attempt         integer     NOT NULL DEFAULT 1,
    failures        integer     NOT NULL DEFAULT 0,
    crashes         integer     NOT NULL DEFAULT 0,
    is_isolated     boolean     NOT NULL DEFAULT false,
    has_effect      boolean     NOT NULL DEFAULT false,
    failing_since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    deadline_at     timestamptz NOT NULL,
    due_at          timestamptz,
    closed_at       timestamptz,
    carry           jsonb,
    error           text,
    PRIMARY KEY (job_id, part, no),
    FOREIGN KEY (job_id, part) REFERENCES batch_checkpoints (job_id, part) ON DELETE CASCADE,
    CONSTRAINT batches_status_known CHECK (status IN ('observing', 'sent', 'waiting', 'recorded', 'repeated', 'split')),
    CONSTRAINT batches_counts_positive CHECK (item_count > 0 AND cost_units >= 0 AND requests >= 0 AND attempt > 0),
    CONSTRAINT batches_open_has_no_end CHECK ((closed_at IS NULL) = (status IN ('observing', 'sent'))),
    CONSTRAINT batches_waiting_has_a_time CHECK ((status = 'waiting') = (due_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX batches_scope_sent_at_idx ON batches (scope, sent_at);
-- What a progress poll asks for: the latest answers of a job, however many came before.
CREATE INDEX batches_recorded_idx ON batches (job_id, closed_at) INCLUDE (item_count, requests) WHERE status = 'recorded';
CREATE INDEX batches_unfinished_idx ON batches (job_id, part) WHERE status IN ('observing', 'sent', 'waiting');

CREATE TABLE item_outcomes (
    job_id   bigint      NOT NULL,
    part     integer     NOT NULL,
    seq      bigint      NOT NULL,
    status   text        NOT NULL,
    attempts integer     NOT NULL DEFAULT 1,
    result   jsonb,
    error    jsonb,
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, part, seq),
    CONSTRAINT item_outcomes_status_is_terminal CHECK (status IN ('succeeded', 'skipped', 'failed', 'unconfirmed'))
);
CREATE INDEX item_outcomes_trouble_idx ON item_outcomes (job_id, status, part, seq) WHERE status IN ('failed', 'unconfirmed');

-- Stragglers: items that may pass later, until they have an outcome.
CREATE TABLE item_retries (
    job_id   bigint      NOT NULL,
    part     integer     NOT NULL,
    seq      bigint      NOT NULL,
    attempts integer     NOT NULL,
    due_at   timestamptz NOT NULL,
    history  jsonb       NOT NULL DEFAULT '[]',
    is_in_doubt boolean  NOT NULL DEFAULT false,
    PRIMARY KEY (job_id, part, seq),
    FOREIGN KEY (job_id, part) REFERENCES batch_checkpoints (job_id, part) ON DELETE CASCADE
);

-- The before-state of each item, committed before its effect. A repeated effect keeps the first before-state: the later one
-- might already show our own effect.
CREATE TABLE item_journal (
    job_id     bigint  NOT NULL,
    part       integer NOT NULL,
    seq        bigint  NOT NULL,
    batch_no   integer NOT NULL,
    effect_seq bigint  GENERATED ALWAYS AS IDENTITY,
    before     jsonb   NOT NULL,
    after      jsonb   NOT NULL,
    PRIMARY KEY (job_id, part, seq)
);
CREATE INDEX item_journal_job_id_effect_seq_idx ON item_journal (job_id, effect_seq);

-- A copy of all a person needs to decide, so that cleanup may remove the job.
CREATE TABLE dead_letters (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id       bigint      NOT NULL,
    part         integer,
    seq          bigint,
    job_type     text        NOT NULL,
    provider     text        NOT NULL,
    account      text        NOT NULL,
    operation    text        NOT NULL,
    key          text        NOT NULL DEFAULT '',
    payload      jsonb,
    fingerprint  text        NOT NULL,
    reason       text        NOT NULL,
    history      jsonb       NOT NULL DEFAULT '[]',
    state        text        NOT NULL DEFAULT 'waiting',
    state_reason text        NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    decided_at   timestamptz,
    CONSTRAINT dead_letters_state_known CHECK (state IN ('waiting', 'retried', 'discarded')),
    CONSTRAINT dead_letters_decided_has_a_time CHECK ((state = 'waiting') = (decided_at IS NULL)),
    CONSTRAINT dead_letters_item_is_whole CHECK ((part IS NULL) = (seq IS NULL))
);
CREATE UNIQUE INDEX dead_letters_one_waiting_per_item_idx ON dead_letters (job_id, part, seq) NULLS NOT DISTINCT
    WHERE state = 'waiting';
CREATE INDEX dead_letters_waiting_idx ON dead_letters (fingerprint, id) WHERE state = 'waiting';

-- Who leads the sweep; slices read it to know whether anyone keeps time.
CREATE TABLE leader_leases (
    role        text        PRIMARY KEY,
    holder      text        NOT NULL,
    lease_until timestamptz NOT NULL
);
