DELETE FROM jobs WHERE id = %(job_id)s AND finished_at IS NOT NULL RETURNING id
