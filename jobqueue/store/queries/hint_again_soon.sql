UPDATE batch_checkpoints SET hinted_at = now() - interval '8 seconds'
WHERE job_id = %(job_id)s AND holder IS NULL AND due_at <= now()
