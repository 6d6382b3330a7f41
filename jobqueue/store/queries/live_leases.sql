SELECT count(*) AS leases, COALESCE(max(extract(epoch FROM due_at - now())), 0)::double precision AS longest_s
FROM batch_checkpoints WHERE job_id = %(job_id)s AND holder IS NOT NULL AND due_at > now()
