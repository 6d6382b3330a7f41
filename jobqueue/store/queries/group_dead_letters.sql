SELECT fingerprint, count(*) AS count, min(reason) AS reason, min(created_at) AS first_at, max(created_at) AS last_at
FROM dead_letters WHERE state = 'waiting' AND (%(job_id)s::bigint IS NULL OR job_id = %(job_id)s)
GROUP BY fingerprint ORDER BY count(*) DESC, fingerprint
