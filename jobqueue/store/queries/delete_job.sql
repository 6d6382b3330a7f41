DELETE FROM jobs WHERE id = %(job_id)s AND expiring_at IS NOT NULL RETURNING id
