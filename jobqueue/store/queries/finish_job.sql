UPDATE jobs AS j
SET state = CASE WHEN t.trouble > 0 THEN 'completed_with_failures' ELSE 'succeeded' END,
    state_reason = '',
    finished_at = now()
FROM (
    SELECT COALESCE(sum(failed + unconfirmed), 0) AS trouble, bool_and(finished_at IS NOT NULL) AS is_finished
    FROM batch_checkpoints WHERE job_id = %(job_id)s
) AS t
WHERE j.id = %(job_id)s AND j.state = 'running' AND t.is_finished
RETURNING j.state
