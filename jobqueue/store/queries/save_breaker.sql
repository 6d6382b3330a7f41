INSERT INTO circuit_breaker_state (scope, provider, state, open_until, opened)
VALUES (%(scope)s, %(provider)s, %(state)s, now() + make_interval(secs => %(open_for_s)s), %(opened)s)
ON CONFLICT (scope) DO UPDATE SET state = excluded.state, open_until = excluded.open_until, opened = excluded.opened, updated_at = now()
