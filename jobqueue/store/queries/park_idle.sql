-- In one order, and so is wake_parked: two slices of a job that park together must not wait for each other's rows.
WITH idle AS (
    SELECT job_id, part FROM batch_checkpoints
    WHERE job_id = %(job_id)s AND holder IS NULL AND finished_at IS NULL AND kind = 'items'
        AND due_at < now() + make_interval(secs => %(due_in_s)s)
    ORDER BY job_id, part
    FOR UPDATE
)
UPDATE batch_checkpoints AS c SET due_at = now() + make_interval(secs => %(due_in_s)s), hinted_at = NULL, wait_reason = %(reason)s
FROM idle WHERE c.job_id = idle.job_id AND c.part = idle.part
