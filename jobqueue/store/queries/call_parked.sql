-- Parts that wait for something else keep their time.
UPDATE batch_checkpoints SET due_at = now(), hinted_at = NULL
WHERE job_id = ANY(%(job_ids)s::bigint[]) AND holder IS NULL AND due_at > now() AND wait_reason LIKE %(reason)s
