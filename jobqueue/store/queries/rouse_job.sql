-- Permits are free that nobody waits for: let so many of the job's due parts be hinted at.
WITH parts AS (
    SELECT job_id, part FROM batch_checkpoints
    WHERE job_id = %(job_id)s AND due_at <= clock_timestamp() AND hinted_at IS NOT NULL
    ORDER BY due_at, part
    LIMIT %(count)s
    FOR UPDATE SKIP LOCKED
)
UPDATE batch_checkpoints AS c SET hinted_at = NULL
FROM parts WHERE c.job_id = parts.job_id AND c.part = parts.part
