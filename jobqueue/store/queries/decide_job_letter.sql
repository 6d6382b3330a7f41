UPDATE dead_letters SET state = 'retried', decided_at = now()
WHERE job_id = %(job_id)s AND part IS NULL AND state = 'waiting' RETURNING id
