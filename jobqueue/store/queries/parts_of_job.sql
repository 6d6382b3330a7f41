SELECT part FROM batch_checkpoints WHERE job_id = %(job_id)s ORDER BY part
