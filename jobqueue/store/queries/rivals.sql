-- Active jobs of a provider and the items they have left: who shares its quota. Sums over at most a thousand jobs' few checkpoints.
SELECT count(DISTINCT j.id) AS jobs,
    COALESCE(sum(c.item_count - c.succeeded - c.skipped - c.failed - c.unconfirmed) FILTER (WHERE c.kind = 'items'), 0)::bigint AS items
FROM (
    SELECT id FROM jobs WHERE provider = %(provider)s AND state IN ('queued', 'running') ORDER BY id DESC LIMIT 1000
) AS j
JOIN batch_checkpoints AS c ON c.job_id = j.id AND c.finished_at IS NULL
