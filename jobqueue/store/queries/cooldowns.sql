SELECT scope, extract(epoch FROM blocked_until - now())::double precision AS remaining_s, reason
FROM provider_rate_state WHERE provider = %(provider)s AND blocked_until > now()
