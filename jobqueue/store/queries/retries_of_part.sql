SELECT r.seq, r.attempts, r.is_in_doubt, jsonb_array_length(r.history) AS tries, i.key, i.payload, l.before, l.after, extract(epoch FROM r.due_at - now())::double precision AS due_in_s
FROM item_retries AS r
JOIN job_items AS i USING (job_id, part, seq)
LEFT JOIN item_journal AS l USING (job_id, part, seq)
WHERE r.job_id = %(job_id)s AND r.part = %(part)s
ORDER BY r.due_at, r.seq
LIMIT %(count)s
