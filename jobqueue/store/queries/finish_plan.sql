WITH part AS (
    UPDATE batch_checkpoints SET holder = NULL, holder_host = NULL, holder_pid = NULL, holder_started = NULL, due_at = NULL,
        finished_at = now(), crashes = 0
    WHERE job_id = %(job_id)s AND part = %(part)s AND fence = %(fence)s
    RETURNING job_id
)
UPDATE jobs SET planned_at = now(), item_count = %(item_count)s, summary = summary || %(summary)s::jsonb
FROM part WHERE jobs.id = part.job_id
RETURNING jobs.id
