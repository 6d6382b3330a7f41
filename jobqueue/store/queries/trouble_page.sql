-- Failed and unconfirmed items are few among many: found by their own index instead of by reading the whole job.
SELECT o.seq, o.part, i.key, i.payload, o.status, o.attempts, o.result, o.error, o.at
FROM item_outcomes AS o
JOIN job_items AS i USING (job_id, part, seq)
WHERE o.job_id = %(job_id)s AND o.status = %(status)s AND o.status IN ('failed', 'unconfirmed')
    AND (o.part, o.seq) > (%(after_part)s, %(after_seq)s)
ORDER BY o.part, o.seq
LIMIT %(count)s
