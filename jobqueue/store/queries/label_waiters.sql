SELECT w.job_id, w.capacity, w.since,
    w.called_at IS NULL OR w.called_at > now() - make_interval(secs => %(call_s)s) AS is_coming
FROM concurrency_waiters AS w
JOIN jobs AS j ON j.id = w.job_id
WHERE w.label = %(label)s AND j.state IN ('queued', 'running')
ORDER BY j.priority, w.ticket
