-- A cleanup that died in the middle is gone on with. Kept longer: a job whose journal a rollback still has to read, and one whose
-- requests a limiter that lost its Redis state would have to count. keep_s: the longest window and request, by provider.
SELECT j.id FROM jobs AS j
LEFT JOIN unnest(%(providers)s::text[], %(keep_s)s::double precision[]) AS k (provider, keep_s) USING (provider)
CROSS JOIN LATERAL (SELECT now() - make_interval(secs => COALESCE(k.keep_s, %(least_s)s)) AS counted_from) AS c
WHERE (%(job_id)s::bigint IS NULL OR j.id = %(job_id)s) AND (j.expiring_at IS NOT NULL OR (
    j.finished_at < now() - make_interval(secs => %(older_than_s)s)
    AND NOT EXISTS (SELECT FROM jobs AS r WHERE r.rollback_of = j.id
        AND (r.state IN ('queued', 'running', 'paused') OR (r.state = 'failed' AND r.planned_at IS NULL)))
    -- A job that ended long before needs no look at its batches.
    AND (j.finished_at < c.counted_from - interval '10 minutes' OR NOT EXISTS (SELECT FROM batches AS b
        WHERE b.job_id = j.id AND b.requests > 0 AND COALESCE(b.closed_at, b.deadline_at) > c.counted_from))))
ORDER BY j.expiring_at, j.id LIMIT %(count)s
