SELECT i.seq, i.part, i.key, i.payload,
    COALESCE(o.status, CASE WHEN r.seq IS NOT NULL THEN 'retrying' END, CASE WHEN j.state = 'cancelled' THEN 'cancelled' ELSE 'waiting' END) AS status,
    COALESCE(o.attempts, r.attempts, 0) AS attempts, o.result, o.error, o.at
FROM job_items AS i
JOIN jobs AS j ON j.id = i.job_id
LEFT JOIN item_outcomes AS o USING (job_id, part, seq)
LEFT JOIN item_retries AS r USING (job_id, part, seq)
WHERE i.job_id = %(job_id)s AND (i.part, i.seq) > (%(after_part)s, %(after_seq)s)
    AND (%(status)s::text IS NULL OR %(status)s =
        COALESCE(o.status, CASE WHEN r.seq IS NOT NULL THEN 'retrying' END, CASE WHEN j.state = 'cancelled' THEN 'cancelled' ELSE 'waiting' END))
ORDER BY i.part, i.seq
LIMIT %(count)s
