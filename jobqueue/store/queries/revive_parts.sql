-- Unfinished parts of a job at work that nobody holds and nothing will wake: released while the job was just being resumed.
UPDATE batch_checkpoints AS c SET due_at = now(), hinted_at = NULL
FROM jobs AS j
WHERE j.state IN ('queued', 'running') AND c.job_id = j.id AND c.due_at IS NULL AND c.holder IS NULL AND c.finished_at IS NULL
RETURNING c.job_id
