-- %(from_states)s comes from the transition table of the model; nothing moves otherwise.
-- Whoever has an ended job tried again lifts its deadline: past it, the sweep would only fail the job once more.
UPDATE jobs
SET state = %(to_state)s, state_reason = %(reason)s,
    finished_at = CASE WHEN %(is_terminal)s THEN now() END,
    deadline_at = CASE WHEN finished_at IS NULL THEN deadline_at END
WHERE id = %(job_id)s AND state = ANY (%(from_states)s) AND expiring_at IS NULL
RETURNING state
