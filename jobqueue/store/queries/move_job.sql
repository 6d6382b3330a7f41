-- %(from_states)s comes from the transition table of the model; nothing moves otherwise.
UPDATE jobs
SET state = %(to_state)s, state_reason = %(reason)s,
    finished_at = CASE WHEN %(is_terminal)s THEN now() END
WHERE id = %(job_id)s AND state = ANY (%(from_states)s)
RETURNING state
