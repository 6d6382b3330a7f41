INSERT INTO leader_leases AS l (role, holder, lease_until)
VALUES (%(role)s, %(holder)s, now() + make_interval(secs => %(lease_s)s))
ON CONFLICT (role) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
WHERE l.holder = excluded.holder OR l.lease_until < now()
RETURNING holder
