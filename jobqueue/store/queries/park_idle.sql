UPDATE batch_checkpoints SET due_at = now() + make_interval(secs => %(due_in_s)s), hinted_at = NULL, wait_reason = %(reason)s
WHERE job_id = %(job_id)s AND holder IS NULL AND finished_at IS NULL AND kind = 'items'
    AND due_at < now() + make_interval(secs => %(due_in_s)s)
