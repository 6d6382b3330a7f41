SELECT part, no, first_seq, last_seq, seqs, item_count, status, idempotency_key, attempt, failures, crashes, is_isolated, has_effect, carry,
    extract(epoch FROM now() - failing_since)::double precision AS failing_for_s,
    COALESCE(extract(epoch FROM due_at - now()), 0)::double precision AS due_in_s
FROM batches
WHERE job_id = %(job_id)s AND part = %(part)s AND status IN ('observing', 'sent', 'waiting')
ORDER BY no
