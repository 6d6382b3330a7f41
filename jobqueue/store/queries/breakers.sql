SELECT scope, state, extract(epoch FROM open_until - now())::double precision AS open_for_s, opened
FROM circuit_breaker_state WHERE provider = %(provider)s
