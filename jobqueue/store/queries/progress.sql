SELECT
    COALESCE(sum(succeeded), 0)::bigint AS succeeded,
    COALESCE(sum(skipped), 0)::bigint AS skipped,
    COALESCE(sum(failed), 0)::bigint AS failed,
    COALESCE(sum(unconfirmed), 0)::bigint AS unconfirmed,
    COALESCE(sum(requests), 0)::bigint AS requests,
    count(*) FILTER (WHERE finished_at IS NULL AND kind = 'items') AS open_parts,
    count(*) AS parts,
    count(*) FILTER (WHERE holder IS NOT NULL AND due_at > now()) AS held_parts,
    count(DISTINCT holder) FILTER (WHERE due_at > now()) AS holders,
    extract(epoch FROM min(due_at) FILTER (WHERE holder IS NULL) - now())::double precision AS next_due_in_s,
    (array_agg(wait_reason ORDER BY due_at) FILTER (WHERE holder IS NULL AND due_at > now() AND wait_reason <> ''))[1] AS wait_reason,
    (SELECT count(*) FROM item_retries WHERE job_id = %(job_id)s) AS retrying,
    (SELECT COALESCE(sum(item_count), 0) FROM batches
        WHERE job_id = %(job_id)s AND status = 'recorded' AND closed_at > now() - interval '30 seconds')::bigint AS recent_items,
    (SELECT COALESCE(extract(epoch FROM now() - min(closed_at)), 0) FROM batches
        WHERE job_id = %(job_id)s AND status = 'recorded' AND closed_at > now() - interval '30 seconds')::double precision AS recent_s,
    (SELECT item_count FROM batches WHERE job_id = %(job_id)s AND status = 'recorded' AND requests > 0
        ORDER BY closed_at DESC LIMIT 1) AS batch_size,
    (SELECT count(*) FROM batches WHERE job_id = %(job_id)s AND status IN ('observing', 'sent')) AS in_flight
FROM batch_checkpoints
WHERE job_id = %(job_id)s
