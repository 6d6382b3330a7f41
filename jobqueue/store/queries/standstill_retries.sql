-- What of a job waits for another try. The batches come from batches_unfinished_idx, the letters from those still waiting.
SELECT
    (SELECT count(*) FROM item_retries WHERE job_id = %(job_id)s) AS items,
    (SELECT extract(epoch FROM min(due_at) - now()) FROM item_retries WHERE job_id = %(job_id)s)::double precision AS items_next_in_s,
    count(*) FILTER (WHERE status = 'waiting' AND due_at > now()) AS batches,
    extract(epoch FROM min(due_at) FILTER (WHERE status = 'waiting' AND due_at > now()) - now())::double precision AS batches_next_in_s,
    COALESCE((array_agg(error ORDER BY closed_at DESC NULLS LAST) FILTER (WHERE status = 'waiting' AND due_at > now() AND error <> ''))[1], '')
        AS error,
    count(*) FILTER (WHERE is_isolated) AS suspects,
    (SELECT count(*) FROM dead_letters WHERE job_id = %(job_id)s AND state = 'waiting' AND fingerprint LIKE 'poison:%%') AS quarantined
FROM batches
WHERE job_id = %(job_id)s AND status IN ('observing', 'sent', 'waiting')
