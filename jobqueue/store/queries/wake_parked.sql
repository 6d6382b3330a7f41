-- What waits for a limit of this provider may go on sooner than it was told. Its next slice asks anew, and parks again if it must.
-- In the order of park_idle.
WITH parked AS (
    SELECT c.job_id, c.part
    FROM batch_checkpoints AS c
    JOIN jobs AS j ON j.id = c.job_id
    WHERE j.provider = %(provider)s AND j.state IN ('queued', 'running') AND (%(job_ids)s::bigint[] IS NULL OR j.id = ANY (%(job_ids)s::bigint[]))
        AND c.due_at > now() AND c.holder IS NULL AND c.wait_reason LIKE 'waiting for %%:%%'
    ORDER BY c.job_id, c.part
    FOR UPDATE OF c
)
UPDATE batch_checkpoints AS c SET due_at = now(), hinted_at = NULL
FROM parked WHERE c.job_id = parked.job_id AND c.part = parked.part
RETURNING c.job_id
