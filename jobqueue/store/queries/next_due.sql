-- Seconds until some part falls due that nobody has hinted at yet; 0 or less: now.
SELECT extract(epoch FROM min(c.due_at) - now())::double precision AS in_s
FROM batch_checkpoints AS c
JOIN jobs AS j ON j.id = c.job_id AND j.state IN ('queued', 'running')
WHERE c.due_at IS NOT NULL AND c.holder IS NULL AND (%(job_id)s::bigint IS NULL OR c.job_id = %(job_id)s)
    AND (c.hinted_at IS NULL OR c.due_at > c.hinted_at)
