INSERT INTO provider_rate_state AS s (scope, provider, blocked_until, reason)
VALUES (%(scope)s, %(provider)s, now() + make_interval(secs => %(remaining_s)s), %(reason)s)
ON CONFLICT (scope) DO UPDATE SET blocked_until = GREATEST(s.blocked_until, excluded.blocked_until), reason = excluded.reason,
    updated_at = now()
