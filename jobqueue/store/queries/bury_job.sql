-- The whole job as one dead letter, with what is undone.
INSERT INTO dead_letters (job_id, job_type, provider, account, operation, fingerprint, reason, history)
SELECT j.id, j.type, j.provider, j.account, j.operation, %(fingerprint)s, %(reason)s, jsonb_build_array(jsonb_build_object('reason', %(reason)s::text, 'at', now()))
FROM jobs AS j WHERE j.id = %(job_id)s
ON CONFLICT DO NOTHING
RETURNING id
