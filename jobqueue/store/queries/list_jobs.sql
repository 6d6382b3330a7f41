SELECT j.*,
    (SELECT count(*) FROM batch_checkpoints AS c
        WHERE c.job_id = j.id AND (c.holder IS NOT NULL OR c.due_at <= now())) AS live_parts,
    COALESCE(p.succeeded, 0) AS succeeded, COALESCE(p.skipped, 0) AS skipped, COALESCE(p.failed, 0) AS failed,
    COALESCE(p.unconfirmed, 0) AS unconfirmed
FROM jobs AS j
LEFT JOIN LATERAL (
    SELECT sum(succeeded)::bigint AS succeeded, sum(skipped)::bigint AS skipped, sum(failed)::bigint AS failed,
        sum(unconfirmed)::bigint AS unconfirmed
    FROM batch_checkpoints WHERE job_id = j.id AND kind = 'items') AS p ON true
WHERE (%(states)s::text[] IS NULL OR j.state = ANY (%(states)s::text[])) AND j.id < %(before_id)s
ORDER BY j.id DESC
LIMIT %(count)s
