SELECT DISTINCT holder, holder_pid, holder_started FROM batch_checkpoints
WHERE holder_host = %(host)s AND holder IS NOT NULL AND due_at > now()
