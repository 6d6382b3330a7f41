-- 0002_rate_limiting: providers, limits, batch sizes, and what must survive a Redis flush.
-- Why rows and not only Redis: Redis is disposable; a cool-down or an open breaker must outlive it.
-- Safe before the code that uses it: adds tables only.
CREATE TABLE providers (
    name      text PRIMARY KEY,
    base_url  text NOT NULL,
    token_url text NOT NULL DEFAULT '',
    CONSTRAINT providers_name_is_plain CHECK (name ~ '^[a-z][a-z0-9_]*$')
);

CREATE TABLE rate_limit_configs (
    provider        text    NOT NULL REFERENCES providers (name) ON DELETE CASCADE,
    scope_kind      text    NOT NULL DEFAULT 'provider',
    windows         text    NOT NULL DEFAULT '',
    unit_windows    text    NOT NULL DEFAULT '',
    mode            text    NOT NULL DEFAULT 'strict',
    max_concurrency integer,
    cooldown_default_s double precision NOT NULL DEFAULT 30,
    breaker         jsonb   NOT NULL DEFAULT '{}',
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, scope_kind),
    CONSTRAINT rate_limit_configs_scope_kind_known CHECK (scope_kind IN ('provider', 'account')),
    CONSTRAINT rate_limit_configs_mode_known CHECK (mode IN ('strict')),
    CONSTRAINT rate_limit_configs_concurrency_positive CHECK (max_concurrency IS NULL OR max_concurrency > 0),
    CONSTRAINT rate_limit_configs_cooldown_positive CHECK (cooldown_default_s > 0)
);

CREATE TABLE batch_configs (
    provider     text    NOT NULL REFERENCES providers (name) ON DELETE CASCADE,
    operation    text    NOT NULL DEFAULT '*',
    min_size     integer NOT NULL DEFAULT 1,
    optimal_size integer NOT NULL,
    max_size     integer NOT NULL,
    PRIMARY KEY (provider, operation),
    CONSTRAINT batch_configs_sizes_ordered CHECK (1 <= min_size AND min_size <= optimal_size AND optimal_size <= max_size)
);

-- The epoch tells a rebuilt limiter state from one that a Redis restart brought back from an old dump: every rebuild takes a new
-- one, and an intent is only committed under the epoch its grant came from.
CREATE TABLE limiter_epochs (
    provider text   PRIMARY KEY REFERENCES providers (name) ON DELETE CASCADE,
    epoch    bigint NOT NULL DEFAULT 0,
    run_id   text   NOT NULL DEFAULT ''
);

CREATE TABLE provider_rate_state (
    scope         text        PRIMARY KEY,
    provider      text        NOT NULL REFERENCES providers (name) ON DELETE CASCADE,
    blocked_until timestamptz NOT NULL,
    reason        text        NOT NULL DEFAULT '',
    updated_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX provider_rate_state_provider_idx ON provider_rate_state (provider);

CREATE TABLE circuit_breaker_state (
    scope      text        PRIMARY KEY,
    provider   text        NOT NULL REFERENCES providers (name) ON DELETE CASCADE,
    state      text        NOT NULL,
    open_until timestamptz,
    opened     integer     NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT circuit_breaker_state_known CHECK (state IN ('closed', 'open', 'half_open'))
);
CREATE INDEX circuit_breaker_state_provider_idx ON circuit_breaker_state (provider);
