-- Labels whose line may move: a permit ran out or is free, or somebody in line has nothing to wait for any more.
SELECT label FROM concurrency_holders WHERE until <= now()
UNION
SELECT w.label FROM concurrency_waiters AS w
JOIN jobs AS j ON j.id = w.job_id
GROUP BY w.label
HAVING bool_or(j.state NOT IN ('queued', 'running'))
    OR (SELECT count(*) FROM concurrency_holders AS h WHERE h.label = w.label) < LEAST(
        min(w.capacity) FILTER (WHERE w.called_at IS NULL OR w.called_at > now() - make_interval(secs => %(call_s)s)),
        (SELECT min(h.capacity) FROM concurrency_holders AS h WHERE h.label = w.label))
