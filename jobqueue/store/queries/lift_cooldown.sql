UPDATE provider_rate_state SET blocked_until = NULL, reason = '', updated_at = now() WHERE scope = %(scope)s
