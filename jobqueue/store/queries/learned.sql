SELECT scope, learned FROM provider_rate_state WHERE provider = %(provider)s AND learned <> '{}'
