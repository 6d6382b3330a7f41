SELECT count(*) FILTER (WHERE holder IS NULL AND due_at <= now()) AS due,
    count(*) FILTER (WHERE holder IS NOT NULL AND due_at > now()) AS held,
    extract(epoch FROM min(due_at) - now())::double precision AS next_due_in_s
FROM batch_checkpoints WHERE job_id = %(job_id)s AND due_at IS NOT NULL
