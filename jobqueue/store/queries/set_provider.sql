UPDATE providers SET base_url = COALESCE(%(base_url)s, base_url), token_url = COALESCE(%(token_url)s, token_url)
WHERE name = %(name)s RETURNING name, base_url, token_url
