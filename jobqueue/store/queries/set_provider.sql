-- A new provider needs its base_url; a known one keeps what is not given.
INSERT INTO providers AS p (name, base_url, token_url)
SELECT %(name)s, %(base_url)s::text, COALESCE(%(token_url)s::text, '')
WHERE %(base_url)s::text IS NOT NULL AND NOT EXISTS (SELECT FROM providers WHERE name = %(name)s)
UNION ALL
SELECT name, COALESCE(%(base_url)s::text, base_url), COALESCE(%(token_url)s::text, token_url) FROM providers WHERE name = %(name)s
ON CONFLICT (name) DO UPDATE SET base_url = excluded.base_url, token_url = excluded.token_url
RETURNING name, base_url, token_url
