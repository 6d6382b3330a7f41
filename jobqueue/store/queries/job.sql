-- parked is derived: a running job of which no part is held or due now.
SELECT j.*,
    (SELECT count(*) FROM batch_checkpoints AS c
        WHERE c.job_id = j.id AND (c.holder IS NOT NULL OR c.due_at <= now())) AS live_parts
FROM jobs AS j WHERE j.id = %(job_id)s
