SELECT name, base_url, token_url FROM providers ORDER BY name
