-- What waits for a limit of this provider may go on sooner than it was told. Its next slice asks anew, and parks again if it must.
UPDATE batch_checkpoints AS c SET due_at = now(), hinted_at = NULL
FROM jobs AS j
WHERE j.provider = %(provider)s AND j.state IN ('queued', 'running') AND (%(job_ids)s::bigint[] IS NULL OR j.id = ANY (%(job_ids)s::bigint[]))
    AND c.job_id = j.id AND c.due_at > now() AND c.holder IS NULL AND c.wait_reason LIKE 'waiting for %%:%%'
RETURNING c.job_id
