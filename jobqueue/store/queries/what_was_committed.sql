-- FOR UPDATE waits for a backend that may still be working on the statement whose answer was lost.
SELECT part, fence, last_commit FROM batch_checkpoints
WHERE job_id = %(job_id)s AND part = ANY (%(parts)s)
FOR UPDATE
