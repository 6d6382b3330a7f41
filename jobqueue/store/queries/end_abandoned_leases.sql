-- A holder that died while its job was being stopped: nobody will claim the part, so it must not stay due for ever.
-- A new fence, because the holder may only have hung: from now on it writes nothing.
UPDATE batch_checkpoints AS c
SET fence = c.fence + 1, due_at = NULL, holder = NULL, holder_host = NULL, holder_pid = NULL, holder_started = NULL
FROM jobs AS j
WHERE j.id = c.job_id AND c.due_at <= now() AND j.state NOT IN ('queued', 'running')
RETURNING c.job_id
