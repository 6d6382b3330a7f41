SELECT
    (SELECT COALESCE(sum(succeeded), 0) FROM batch_checkpoints WHERE job_id = %(job_id)s AND kind = 'items')::bigint AS succeeded,
    (SELECT count(*) FROM item_journal AS l LEFT JOIN item_outcomes AS o USING (job_id, part, seq)
        WHERE l.job_id = %(job_id)s AND o.status = 'succeeded')::bigint AS journalled,
    (SELECT count(*) FROM item_journal AS l LEFT JOIN item_outcomes AS o USING (job_id, part, seq)
        WHERE l.job_id = %(job_id)s AND o.status IS DISTINCT FROM 'succeeded' AND o.status IS DISTINCT FROM 'skipped')::bigint AS unknown
