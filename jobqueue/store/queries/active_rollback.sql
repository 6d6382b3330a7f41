SELECT id FROM jobs WHERE rollback_of = %(job_id)s AND state IN ('queued', 'running', 'paused') ORDER BY id LIMIT 1
