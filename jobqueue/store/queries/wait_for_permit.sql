-- The job comes to the end of the line, or keeps its place. Its due parts wait; those its own slice inside will take stay due, and
-- so do those of a crashed holder (moved, they would look held): only hints at them wait.
WITH waiter AS (
    INSERT INTO concurrency_waiters (label, job_id, capacity) VALUES (%(label)s, %(job_id)s, %(capacity)s)
    ON CONFLICT (label, job_id) DO UPDATE SET called_at = NULL, capacity = excluded.capacity
), parts AS (
    SELECT c.job_id, c.part, c.holder IS NULL AND NOT %(is_inside)s AS is_parked
    FROM batch_checkpoints AS c
    JOIN jobs AS j ON j.id = c.job_id
    WHERE c.job_id = %(job_id)s AND j.state IN ('queued', 'running') AND c.due_at IS NOT NULL
        AND (c.due_at <= clock_timestamp() OR (c.holder IS NULL AND starts_with(c.wait_reason, %(prefix)s)))
    FOR UPDATE OF c SKIP LOCKED
)
UPDATE batch_checkpoints AS c
SET due_at = CASE WHEN parts.is_parked THEN clock_timestamp() + make_interval(secs => %(due_in_s)s) ELSE c.due_at END,
    wait_reason = CASE WHEN parts.is_parked THEN %(reason)s ELSE c.wait_reason END,
    hinted_at = CASE WHEN parts.is_parked THEN NULL ELSE clock_timestamp() + make_interval(secs => %(due_in_s)s - 10) END
FROM parts WHERE c.job_id = parts.job_id AND c.part = parts.part
