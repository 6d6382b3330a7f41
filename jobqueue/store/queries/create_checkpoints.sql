INSERT INTO batch_checkpoints (job_id, part, kind, priority, first_seq, last_seq, item_count, cursor, due_at)
SELECT %(job_id)s, p.part, %(kind)s, %(priority)s, p.first_seq, p.last_seq, p.last_seq - p.first_seq + 1, p.first_seq, now()
FROM unnest(%(parts)s::integer[], %(first_seqs)s::bigint[], %(last_seqs)s::bigint[]) AS p (part, first_seq, last_seq)
