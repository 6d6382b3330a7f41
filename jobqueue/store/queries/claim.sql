-- A part whose lease ended still names its holder: that one crashed, or hangs.
-- The job's row is looked at again once its lock is ours: a person may have stopped the job meanwhile.
WITH due AS (
    SELECT c.job_id, c.part, c.holder IS NOT NULL AS was_held
    FROM batch_checkpoints AS c
    JOIN jobs AS j ON j.id = c.job_id
    WHERE c.job_id = %(job_id)s AND c.due_at <= now() AND j.state IN ('queued', 'running')
    ORDER BY c.due_at, c.part
    LIMIT %(count)s
    FOR UPDATE OF c SKIP LOCKED
), started AS (
    UPDATE jobs SET state = 'running', started_at = now()
    WHERE id = %(job_id)s AND state IN ('queued', 'running') AND started_at IS NULL AND EXISTS (SELECT FROM due)
)
UPDATE batch_checkpoints AS c
SET fence = c.fence + 1,
    crashes = c.crashes + due.was_held::integer,
    holder = %(holder)s,
    holder_host = %(host)s,
    holder_pid = %(pid)s,
    holder_started = %(pid_started)s,
    due_at = now() + make_interval(secs => %(lease_s)s),
    hinted_at = NULL,
    wait_reason = ''
FROM due
WHERE c.job_id = due.job_id AND c.part = due.part
RETURNING c.part, c.kind, c.first_seq, c.last_seq, c.item_count, c.cursor, c.batch_no, c.fence, c.crashes, due.was_held,
    c.succeeded + c.skipped + c.failed + c.unconfirmed AS done
