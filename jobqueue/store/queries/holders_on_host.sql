SELECT holder, holder_pid, holder_started FROM batch_checkpoints
WHERE holder_host = %(host)s AND holder IS NOT NULL AND due_at > now()
UNION
SELECT holder, holder_pid, holder_started FROM concurrency_holders WHERE holder_host = %(host)s
