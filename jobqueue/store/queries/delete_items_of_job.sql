-- In slices of parts, so that a large job is no long transaction.
WITH a AS (DELETE FROM job_items WHERE job_id = %(job_id)s AND part = %(part)s),
    b AS (DELETE FROM item_outcomes WHERE job_id = %(job_id)s AND part = %(part)s),
    c AS (DELETE FROM item_journal WHERE job_id = %(job_id)s AND part = %(part)s)
DELETE FROM batch_checkpoints WHERE job_id = %(job_id)s AND part = %(part)s
