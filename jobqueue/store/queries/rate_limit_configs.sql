-- One statement, so that the version is that of these very rows.
SELECT r.scope_kind, r.scope_name, r.windows, r.unit_windows, r.mode, r.max_concurrency, r.cooldown_default_s, r.breaker,
    r.learned_floor, r.backoff, COALESCE(e.config_version, 0) AS config_version
FROM (VALUES (%(provider)s::text)) AS p (name)
LEFT JOIN limiter_epochs AS e ON e.provider = p.name
LEFT JOIN rate_limit_configs AS r ON r.provider = p.name
ORDER BY r.scope_kind DESC, r.scope_name
