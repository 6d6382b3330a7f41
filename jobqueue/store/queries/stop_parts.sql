-- Held parts stay as they are: their holders record what is in flight and release them.
UPDATE batch_checkpoints SET due_at = NULL, wait_reason = ''
WHERE job_id = %(job_id)s AND holder IS NULL AND due_at IS NOT NULL
