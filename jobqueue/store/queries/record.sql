-- Outcomes of the requests that were answered and intents of the ones to be sent next, for all parts of one holder, as one
-- statement and so one transaction. A part whose fence moved on is left out whole. Intents need the limiter epoch their grants
-- came from: a rebuild that counted the sends without them must not be overtaken.
WITH epoch AS MATERIALIZED (
    SELECT 1 FROM limiter_epochs WHERE provider = %(provider)s AND epoch = %(epoch)s FOR SHARE
), held AS (
    UPDATE batch_checkpoints AS c
    SET cursor = CASE WHEN p.has_intents AND EXISTS (SELECT FROM epoch) THEN p.cursor ELSE c.cursor END,
        batch_no = GREATEST(c.batch_no, p.batch_no),
        succeeded = c.succeeded + p.succeeded,
        skipped = c.skipped + p.skipped,
        failed = c.failed + p.failed,
        unconfirmed = c.unconfirmed + p.unconfirmed,
        requests = c.requests + p.requests,
        crashes = CASE WHEN p.has_outcomes THEN 0 ELSE c.crashes END,
        recorded_at = CASE WHEN p.has_outcomes THEN now() ELSE c.recorded_at END,
        last_commit = %(commit)s
    FROM jsonb_to_recordset(%(parts)s::jsonb) AS p (
        part integer, fence bigint, cursor bigint, batch_no integer, has_intents boolean, has_outcomes boolean,
        succeeded bigint, skipped bigint, failed bigint, unconfirmed bigint, requests bigint)
    WHERE c.job_id = %(job_id)s AND c.part = p.part AND c.fence = p.fence
    RETURNING c.part
), closed AS (
    UPDATE batches AS b
    SET status = x.status,
        closed_at = COALESCE(b.closed_at, clock_timestamp()),
        due_at = CASE WHEN x.status = 'waiting' THEN now() + make_interval(secs => x.due_in_s) END,
        failures = x.failures,
        failing_since = CASE WHEN x.status = 'waiting' THEN now() - make_interval(secs => x.failing_for_s) ELSE b.failing_since END,
        requests = COALESCE(x.requests, b.requests),
        has_effect = x.has_effect,
        carry = x.carry,
        error = COALESCE(x.error, b.error)
    FROM jsonb_to_recordset(%(closed)s::jsonb) AS x (
        part integer, no integer, status text, due_in_s double precision, failures integer, failing_for_s double precision, requests integer, has_effect boolean,
        carry jsonb, error text)
    JOIN held USING (part)
    WHERE b.job_id = %(job_id)s AND b.part = x.part AND b.no = x.no
        AND (x.status <> 'repeated' OR EXISTS (SELECT FROM epoch))
), opened AS (
    INSERT INTO batches (job_id, part, no, first_seq, last_seq, seqs, item_count, status, idempotency_key, scope, cost_units,
        requests, attempt, failures, crashes, is_isolated, has_effect, failing_since, deadline_at)
    SELECT %(job_id)s, x.part, x.no, x.first_seq, x.last_seq, x.seqs, x.item_count, x.status, x.idempotency_key, %(scope)s,
        x.cost_units, x.requests, x.attempt, x.failures, x.crashes, x.is_isolated, x.has_effect,
        clock_timestamp() - make_interval(secs => x.failing_for_s), clock_timestamp() + make_interval(secs => x.deadline_s)
    FROM jsonb_to_recordset(%(opened)s::jsonb) AS x (
        part integer, no integer, first_seq bigint, last_seq bigint, seqs bigint[], item_count integer, status text,
        idempotency_key text, cost_units integer, requests integer, attempt integer, failures integer, crashes integer,
        is_isolated boolean, has_effect boolean, failing_for_s double precision, deadline_s double precision)
    JOIN held USING (part)
    WHERE EXISTS (SELECT FROM epoch)
), split AS (
    INSERT INTO batches (job_id, part, no, first_seq, last_seq, seqs, item_count, status, idempotency_key, scope, cost_units,
        requests, attempt, failures, is_isolated, has_effect, deadline_at, due_at, closed_at)
    SELECT %(job_id)s, x.part, x.no, x.first_seq, x.last_seq, x.seqs, x.item_count, 'waiting', x.idempotency_key, %(scope)s, 0,
        0, x.attempt, x.failures, x.is_isolated, x.has_effect, now(), now() + make_interval(secs => x.due_in_s), now()
    FROM jsonb_to_recordset(%(split)s::jsonb) AS x (
        part integer, no integer, first_seq bigint, last_seq bigint, seqs bigint[], item_count integer, idempotency_key text,
        attempt integer, failures integer, is_isolated boolean, has_effect boolean, due_in_s double precision)
    JOIN held USING (part)
), turned AS (
    UPDATE batches AS b
    SET status = 'sent', has_effect = true, sent_at = clock_timestamp(),
        deadline_at = clock_timestamp() + make_interval(secs => x.deadline_s)
    FROM jsonb_to_recordset(%(turned)s::jsonb) AS x (part integer, no integer, deadline_s double precision)
    JOIN held USING (part)
    WHERE b.job_id = %(job_id)s AND b.part = x.part AND b.no = x.no
), journalled AS (
    INSERT INTO item_journal (job_id, part, seq, batch_no, before, after)
    SELECT %(job_id)s, x.part, x.seq, x.batch_no, x.before, x.after
    FROM jsonb_to_recordset(%(journal)s::jsonb) AS x (part integer, seq bigint, batch_no integer, before jsonb, after jsonb)
    JOIN held USING (part)
    ORDER BY x.part, x.batch_no, x.seq
    ON CONFLICT (job_id, part, seq) DO NOTHING
), unjournalled AS (
    DELETE FROM item_journal AS l
    USING jsonb_to_recordset(%(unjournalled)s::jsonb) AS x (part integer, seq bigint), held
    WHERE l.job_id = %(job_id)s AND held.part = x.part AND l.part = x.part AND l.seq = x.seq
), ranges AS (
    INSERT INTO item_outcomes (job_id, part, seq, status, attempts)
    SELECT %(job_id)s, x.part, s.seq, x.status, x.attempts
    FROM jsonb_to_recordset(%(ranges)s::jsonb) AS x (part integer, first_seq bigint, last_seq bigint, status text, attempts integer)
    JOIN held USING (part)
    CROSS JOIN LATERAL generate_series(x.first_seq, x.last_seq) AS s (seq)
), singles AS (
    INSERT INTO item_outcomes (job_id, part, seq, status, attempts, result, error)
    SELECT %(job_id)s, x.part, x.seq, x.status, x.attempts, x.result, x.error
    FROM jsonb_to_recordset(%(singles)s::jsonb) AS x (part integer, seq bigint, status text, attempts integer, result jsonb, error jsonb)
    JOIN held USING (part)
), dead AS (
    INSERT INTO dead_letters (job_id, part, seq, job_type, provider, account, operation, key, payload, fingerprint, reason, history)
    SELECT j.id, x.part, x.seq, j.type, j.provider, j.account, j.operation, i.key, i.payload, x.fingerprint, x.reason,
        COALESCE(r.history, '[]') || x.event
    FROM jsonb_to_recordset(%(dead)s::jsonb) AS x (part integer, seq bigint, fingerprint text, reason text, event jsonb)
    JOIN held USING (part)
    JOIN jobs AS j ON j.id = %(job_id)s
    JOIN job_items AS i ON i.job_id = j.id AND i.part = x.part AND i.seq = x.seq
    LEFT JOIN item_retries AS r ON r.job_id = j.id AND r.part = x.part AND r.seq = x.seq
    ON CONFLICT DO NOTHING
), retried AS (
    INSERT INTO item_retries AS r (job_id, part, seq, attempts, due_at, history)
    SELECT %(job_id)s, x.part, x.seq, x.attempts, now() + make_interval(secs => x.due_in_s), jsonb_build_array(x.event)
    FROM jsonb_to_recordset(%(retries)s::jsonb) AS x (part integer, seq bigint, attempts integer, due_in_s double precision, event jsonb)
    JOIN held USING (part)
    ON CONFLICT (job_id, part, seq) DO UPDATE
    SET attempts = excluded.attempts, due_at = excluded.due_at, history = r.history || excluded.history
), settled AS (
    DELETE FROM item_retries AS r
    USING jsonb_to_recordset(%(ranges)s::jsonb || %(singles)s::jsonb) AS x (part integer, first_seq bigint, last_seq bigint, seq bigint),
        held
    WHERE r.job_id = %(job_id)s AND held.part = x.part AND r.part = x.part
        AND r.seq BETWEEN COALESCE(x.first_seq, x.seq) AND COALESCE(x.last_seq, x.seq)
)
SELECT (SELECT COALESCE(array_agg(part), '{}') FROM held) AS held,
    EXISTS (SELECT FROM epoch) AS is_epoch_current,
    limiter.epoch,
    limiter.config_version,
    (SELECT state FROM jobs WHERE id = %(job_id)s) AS state
FROM (VALUES (0)) AS one (n)
LEFT JOIN limiter_epochs AS limiter ON limiter.provider = %(provider)s
