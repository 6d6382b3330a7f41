-- Items of one unfinished batch that have no outcome yet, with the journal of those whose effect may have been sent.
SELECT i.seq, i.key, i.payload, l.before, l.after
FROM job_items AS i
LEFT JOIN item_journal AS l ON l.job_id = i.job_id AND l.part = i.part AND l.seq = i.seq
WHERE i.job_id = %(job_id)s AND i.part = %(part)s AND i.seq BETWEEN %(first_seq)s AND %(last_seq)s
    AND (%(seqs)s::bigint[] IS NULL OR i.seq = ANY (%(seqs)s::bigint[]))
    AND NOT EXISTS (SELECT FROM item_outcomes AS o WHERE o.job_id = i.job_id AND o.part = i.part AND o.seq = i.seq)
ORDER BY i.seq
