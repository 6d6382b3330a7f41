INSERT INTO rate_limit_configs (provider, scope_kind, scope_name, windows, unit_windows, mode, max_concurrency, cooldown_default_s,
    breaker, learned_floor, backoff)
VALUES (%(provider)s, %(scope_kind)s, %(scope_name)s, %(windows)s, %(unit_windows)s, %(mode)s, %(max_concurrency)s,
    %(cooldown_default_s)s, %(breaker)s, %(learned_floor)s, %(backoff)s)
ON CONFLICT (provider, scope_kind, scope_name) DO UPDATE SET
    windows = excluded.windows, unit_windows = excluded.unit_windows, mode = excluded.mode,
    max_concurrency = excluded.max_concurrency, cooldown_default_s = excluded.cooldown_default_s, breaker = excluded.breaker,
    learned_floor = excluded.learned_floor, backoff = excluded.backoff, updated_at = now()
