UPDATE jobs SET expiring_at = COALESCE(expiring_at, now()) WHERE id = %(job_id)s RETURNING id
