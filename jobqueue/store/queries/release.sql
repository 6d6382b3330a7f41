-- Items that were given another try meanwhile keep their part unfinished.
-- A part of a job that was paused, cancelled or failed meanwhile must not fall due by itself.
UPDATE batch_checkpoints AS c
SET holder = NULL,
    holder_host = NULL,
    holder_pid = NULL,
    holder_started = NULL,
    crashes = 0,
    hinted_at = NULL,
    finished_at = CASE WHEN p.is_finished AND c.succeeded + c.skipped + c.failed + c.unconfirmed = c.item_count THEN now() END,
    due_at = CASE WHEN NOT (p.is_finished AND c.succeeded + c.skipped + c.failed + c.unconfirmed = c.item_count) AND j.state IN ('queued', 'running') THEN now() + make_interval(secs => p.due_in_s) END,
    wait_reason = p.reason
FROM jsonb_to_recordset(%(parts)s::jsonb) AS p (part integer, fence bigint, due_in_s double precision, reason text, is_finished boolean),
    jobs AS j
WHERE c.job_id = %(job_id)s AND c.part = p.part AND c.fence = p.fence AND j.id = c.job_id
RETURNING c.part
