-- With the instant it was learned by this clock: what is kept grows older, also while nobody looks.
INSERT INTO provider_rate_state AS s (scope, provider, learned)
SELECT x.scope, %(provider)s,
    CASE WHEN x.learned = '{}' THEN x.learned ELSE jsonb_build_object('at', extract(epoch FROM now()), 'windows', x.learned) END
FROM jsonb_to_recordset(%(entries)s) AS x (scope text, learned jsonb) ORDER BY x.scope
ON CONFLICT (scope) DO UPDATE SET learned = excluded.learned, updated_at = now()
