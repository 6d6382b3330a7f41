-- 0004_limit_levels: limits by operation, overrides by the name of an account, a site or an operation, and what was learned.
-- Why: one number for all accounts of a provider fits none of them, and a limit that was learned must outlive a Redis flush.
-- Safe while old workers run: rows of today keep their meaning under the name '' and stay 'strict'; a row for another kind, name or
-- mode than they know is only there once a person sets one. Nothing they write gets narrower.
ALTER TABLE rate_limit_configs
    ADD COLUMN scope_name text NOT NULL DEFAULT '',
    ADD COLUMN learned_floor integer NOT NULL DEFAULT 1,
    ADD COLUMN backoff jsonb NOT NULL DEFAULT '{}',
    ALTER COLUMN mode SET DEFAULT 'auto',
    DROP CONSTRAINT rate_limit_configs_scope_kind_known,
    DROP CONSTRAINT rate_limit_configs_mode_known,
    ADD CONSTRAINT rate_limit_configs_scope_kind_known CHECK (scope_kind IN ('provider', 'operation', 'account')),
    ADD CONSTRAINT rate_limit_configs_mode_known CHECK (mode IN ('auto', 'strict', 'eager')),
    ADD CONSTRAINT rate_limit_configs_name_fits_kind CHECK (
        CASE scope_kind WHEN 'provider' THEN scope_name = '' WHEN 'operation' THEN scope_name ~ '^[^/:{}[:space:]]+$' ELSE true END),
    ADD CONSTRAINT rate_limit_configs_floor_positive CHECK (learned_floor > 0),
    ADD CONSTRAINT rate_limit_configs_backoff_is_the_providers CHECK (scope_kind = 'provider' OR backoff = '{}'),
    DROP CONSTRAINT rate_limit_configs_pkey,
    ADD CONSTRAINT rate_limit_configs_pkey PRIMARY KEY (provider, scope_kind, scope_name);

-- A person may hold a breaker open, or out of the way.
ALTER TABLE circuit_breaker_state
    DROP CONSTRAINT circuit_breaker_state_known,
    ADD CONSTRAINT circuit_breaker_state_known CHECK (state IN ('closed', 'open', 'half_open', 'forced_open', 'disabled'));

-- A scope may have learned something without being paused.
ALTER TABLE provider_rate_state
    ALTER COLUMN blocked_until DROP NOT NULL,
    ADD COLUMN learned jsonb NOT NULL DEFAULT '{}';

-- Raised with every change of the provider's limits, in the same transaction: who keeps limits in memory sees that they are old.
ALTER TABLE limiter_epochs ADD COLUMN config_version bigint NOT NULL DEFAULT 0;
