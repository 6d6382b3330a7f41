SELECT id FROM jobs
WHERE finished_at < now() - make_interval(secs => %(older_than_s)s)
    AND NOT EXISTS (SELECT FROM jobs AS r WHERE r.rollback_of = jobs.id AND r.state IN ('queued', 'running', 'paused'))
ORDER BY id LIMIT %(count)s
