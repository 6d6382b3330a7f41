-- Who has nothing left to do, or may do nothing, does not keep others waiting.
DELETE FROM concurrency_waiters AS w
WHERE w.label = %(label)s AND NOT EXISTS (
    SELECT FROM batch_checkpoints AS c
    JOIN jobs AS j ON j.id = c.job_id
    WHERE c.job_id = w.job_id AND j.state IN ('queued', 'running') AND c.due_at IS NOT NULL
        AND (c.due_at <= clock_timestamp() OR (c.holder IS NULL AND starts_with(c.wait_reason, %(prefix)s))))
