INSERT INTO provider_rate_state AS s (scope, provider, learned)
SELECT x.scope, %(provider)s, x.learned FROM jsonb_to_recordset(%(entries)s) AS x (scope text, learned jsonb) ORDER BY x.scope
ON CONFLICT (scope) DO UPDATE SET learned = excluded.learned, updated_at = now() WHERE s.learned <> excluded.learned
