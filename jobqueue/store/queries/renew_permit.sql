UPDATE concurrency_holders SET until = clock_timestamp() + make_interval(secs => %(expiry_s)s)
WHERE label = %(label)s AND holder = %(holder)s
RETURNING holder
