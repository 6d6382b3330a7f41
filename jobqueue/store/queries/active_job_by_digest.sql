SELECT id, state FROM jobs
WHERE payload_digest = %(payload_digest)s AND state IN ('queued', 'running', 'paused') AND id <> %(not_id)s
ORDER BY id LIMIT 1
