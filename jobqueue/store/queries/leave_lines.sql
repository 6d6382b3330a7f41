DELETE FROM concurrency_waiters WHERE job_id = %(job_id)s
