-- The active unique job that has the same payload.
SELECT o.id, o.state FROM jobs AS j JOIN jobs AS o USING (payload_digest)
WHERE j.id = %(job_id)s AND o.id <> j.id AND o.is_unique AND o.state IN ('queued', 'running', 'paused')
