-- The open parts of a job, grouped by what they wait for; at most as many rows as there are reasons and holders.
SELECT kind, holder, holder_host, holder_pid, holder_started, wait_reason, is_due, count(*) AS parts,
    min(in_s)::double precision AS first_in_s, max(in_s)::double precision AS last_in_s
FROM (
    SELECT kind, wait_reason, COALESCE(due_at <= now(), false) AS is_due, extract(epoch FROM due_at - now()) AS in_s,
        CASE WHEN due_at > now() THEN holder END AS holder,
        CASE WHEN due_at > now() THEN holder_host END AS holder_host,
        CASE WHEN due_at > now() THEN holder_pid END AS holder_pid,
        CASE WHEN due_at > now() THEN holder_started END AS holder_started
    FROM batch_checkpoints WHERE job_id = %(job_id)s AND finished_at IS NULL
) AS open
GROUP BY kind, holder, holder_host, holder_pid, holder_started, wait_reason, is_due
ORDER BY min(in_s)
