SELECT name, base_url, token_url FROM providers WHERE name = %(name)s
