-- The holders are known to be dead: their parts fall due now. The holder stays named, so the next claim counts the crash.
UPDATE batch_checkpoints SET due_at = now(), hinted_at = NULL
WHERE holder = ANY (%(holders)s) AND due_at > now()
RETURNING job_id, part
