-- The job is in line no longer, and its waiting begins anew.
-- When that was the last permit, nobody else need be told of the job's other parts: this slice takes them one by one.
WITH inside AS (
    INSERT INTO concurrency_holders (label, holder, holder_host, holder_pid, holder_started, job_id, capacity, until)
    VALUES (%(label)s, %(holder)s, %(host)s, %(pid)s, %(pid_started)s, %(job_id)s, %(capacity)s,
        clock_timestamp() + make_interval(secs => %(expiry_s)s))
), out_of_line AS (
    DELETE FROM concurrency_waiters WHERE label = %(label)s AND job_id = %(job_id)s
), parts AS (
    SELECT c.job_id, c.part, starts_with(c.wait_reason, %(prefix)s) AS was_parked
    FROM batch_checkpoints AS c
    WHERE c.job_id = %(job_id)s AND c.due_at IS NOT NULL
        AND (c.due_at <= clock_timestamp() OR (c.holder IS NULL AND starts_with(c.wait_reason, %(prefix)s)))
    FOR UPDATE OF c SKIP LOCKED
)
UPDATE batch_checkpoints AS c
SET due_at = LEAST(c.due_at, clock_timestamp()),
    wait_reason = CASE WHEN parts.was_parked THEN '' ELSE c.wait_reason END,
    hinted_at = CASE
        WHEN %(is_last)s THEN clock_timestamp() + make_interval(secs => %(expiry_s)s - 10)
        WHEN parts.was_parked THEN NULL
        ELSE c.hinted_at END
FROM parts WHERE c.job_id = parts.job_id AND c.part = parts.part
