-- As many as there are free permits, the first in line first: their parts fall due now, the first one is hinted at.
WITH line AS (
    SELECT w.job_id, w.called_at, row_number() OVER (ORDER BY j.priority, w.ticket) AS place
    FROM concurrency_waiters AS w
    JOIN jobs AS j ON j.id = w.job_id
    WHERE w.label = %(label)s
        AND (w.called_at IS NULL OR w.called_at > clock_timestamp() - make_interval(secs => %(call_s)s))
), free AS (
    SELECT (SELECT min(capacity) FROM (
            SELECT capacity FROM concurrency_holders WHERE label = %(label)s
            UNION ALL SELECT capacity FROM concurrency_waiters WHERE label = %(label)s
                AND (called_at IS NULL OR called_at > clock_timestamp() - make_interval(secs => %(call_s)s))) AS declared)
        - (SELECT count(*) FROM concurrency_holders WHERE label = %(label)s) AS permits
), called AS (
    UPDATE concurrency_waiters AS w SET called_at = clock_timestamp()
    FROM line, free
    WHERE w.label = %(label)s AND w.job_id = line.job_id AND line.place <= free.permits AND line.called_at IS NULL
    RETURNING w.job_id
), parts AS (
    SELECT c.job_id, c.part
    FROM batch_checkpoints AS c
    JOIN called ON called.job_id = c.job_id
    WHERE c.due_at IS NOT NULL
        AND (c.due_at <= clock_timestamp() OR (c.holder IS NULL AND starts_with(c.wait_reason, %(prefix)s)))
    ORDER BY c.job_id, c.part
    FOR UPDATE OF c SKIP LOCKED
), woken AS (
    UPDATE batch_checkpoints AS c
    SET due_at = LEAST(c.due_at, clock_timestamp()),
        wait_reason = '',
        hinted_at = CASE WHEN p.place > 1 THEN clock_timestamp() END
    FROM (SELECT job_id, part, row_number() OVER (PARTITION BY job_id ORDER BY part) AS place FROM parts) AS p
    WHERE c.job_id = p.job_id AND c.part = p.part
)
SELECT job_id FROM called
