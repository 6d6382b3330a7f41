WITH due AS (
    SELECT c.job_id, c.part
    FROM batch_checkpoints AS c
    JOIN jobs AS j ON j.id = c.job_id
    WHERE c.priority = %(priority)s AND c.due_at <= now() AND j.state IN ('queued', 'running')
        AND (c.hinted_at IS NULL OR c.hinted_at < now() - make_interval(secs => %(again_after_s)s))
        AND (%(job_id)s::bigint IS NULL OR c.job_id = %(job_id)s)
    ORDER BY c.due_at, c.job_id, c.part
    LIMIT %(count)s
    FOR UPDATE OF c SKIP LOCKED
), hinted AS (
    UPDATE batch_checkpoints AS c SET hinted_at = now()
    FROM due WHERE c.job_id = due.job_id AND c.part = due.part
    RETURNING c.job_id, c.part, c.fence
)
SELECT h.job_id, h.part, h.fence, j.type, j.provider, j.operation, j.item_count FROM hinted AS h JOIN jobs AS j ON j.id = h.job_id
ORDER BY h.job_id, h.part
