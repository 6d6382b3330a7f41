SELECT l.part, l.seq, i.key, i.payload, l.batch_no, l.effect_seq, l.before, l.after, o.status
FROM item_journal AS l
JOIN job_items AS i USING (job_id, part, seq)
LEFT JOIN item_outcomes AS o USING (job_id, part, seq)
WHERE l.job_id = %(job_id)s AND (o.status IS NULL OR o.status IN ('succeeded', 'unconfirmed', 'failed'))
ORDER BY l.effect_seq DESC
