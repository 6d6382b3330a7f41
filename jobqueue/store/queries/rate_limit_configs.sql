SELECT provider, scope_kind, windows, unit_windows, mode, max_concurrency, cooldown_default_s, breaker
FROM rate_limit_configs WHERE %(provider)s::text IS NULL OR provider = %(provider)s ORDER BY provider, scope_kind DESC
