-- What was kept for a scope that has no limits of its own any more.
WITH breaker AS (DELETE FROM circuit_breaker_state WHERE scope = %(scope)s AND provider = %(provider)s)
DELETE FROM provider_rate_state WHERE scope = %(scope)s AND provider = %(provider)s
