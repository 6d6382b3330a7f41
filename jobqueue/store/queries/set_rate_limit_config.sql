INSERT INTO rate_limit_configs AS r (provider, scope_kind, windows, unit_windows, mode, max_concurrency)
VALUES (%(provider)s, %(scope_kind)s, COALESCE(%(windows)s, ''), COALESCE(%(unit_windows)s, ''), COALESCE(%(mode)s, 'strict'),
    %(max_concurrency)s)
ON CONFLICT (provider, scope_kind) DO UPDATE SET
    windows = COALESCE(%(windows)s, r.windows), unit_windows = COALESCE(%(unit_windows)s, r.unit_windows),
    mode = COALESCE(%(mode)s, r.mode),
    max_concurrency = CASE WHEN %(keeps_concurrency)s THEN r.max_concurrency ELSE %(max_concurrency)s END, updated_at = now()
RETURNING provider, scope_kind, windows, unit_windows, mode, max_concurrency
