SELECT j.id FROM jobs AS j
WHERE j.state = 'running'
    AND NOT EXISTS (SELECT FROM batch_checkpoints AS c WHERE c.job_id = j.id AND c.finished_at IS NULL)
