SELECT job_id, holder, capacity, acquired_at, until FROM concurrency_holders
WHERE label = %(label)s AND until > now()
ORDER BY acquired_at, holder
