DELETE FROM rate_limit_configs WHERE provider = %(provider)s AND scope_kind = %(scope_kind)s AND scope_name = %(scope_name)s
RETURNING scope_name
