UPDATE jobs SET concurrency = %(concurrency)s::jsonb WHERE id = %(job_id)s
