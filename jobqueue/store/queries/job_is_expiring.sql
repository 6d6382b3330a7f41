SELECT expiring_at IS NOT NULL AS is_expiring FROM jobs WHERE id = %(job_id)s
