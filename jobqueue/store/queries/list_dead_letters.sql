SELECT id, job_id, part, seq, job_type, provider, account, operation, key, payload, fingerprint, reason, history, state,
    state_reason, created_at
FROM dead_letters
WHERE (%(state)s::text IS NULL OR state = %(state)s) AND id > %(after_id)s
    AND (%(job_id)s::bigint IS NULL OR job_id = %(job_id)s) AND (%(fingerprint)s::text IS NULL OR fingerprint = %(fingerprint)s)
    AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
ORDER BY id LIMIT %(count)s
