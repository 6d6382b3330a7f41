SELECT j.id FROM jobs AS j WHERE j.state IN ('queued', 'running', 'paused') AND j.deadline_at < now()
