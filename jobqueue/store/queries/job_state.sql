SELECT state FROM jobs WHERE id = %(job_id)s
