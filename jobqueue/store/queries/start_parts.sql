UPDATE batch_checkpoints SET due_at = now(), hinted_at = NULL, wait_reason = ''
WHERE job_id = %(job_id)s AND holder IS NULL AND finished_at IS NULL
