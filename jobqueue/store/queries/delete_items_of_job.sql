-- In slices of parts, so that a large job is no long transaction. Only of a job that nobody can take up again.
WITH gone AS (SELECT c.job_id, c.part FROM batch_checkpoints AS c JOIN jobs AS j ON j.id = c.job_id
        WHERE c.job_id = %(job_id)s AND c.part = %(part)s AND j.expiring_at IS NOT NULL),
    a AS (DELETE FROM job_items AS t USING gone WHERE t.job_id = %(job_id)s AND t.part = gone.part),
    b AS (DELETE FROM item_outcomes AS t USING gone WHERE t.job_id = %(job_id)s AND t.part = gone.part),
    c AS (DELETE FROM item_journal AS t USING gone WHERE t.job_id = %(job_id)s AND t.part = gone.part)
DELETE FROM batch_checkpoints AS t USING gone WHERE t.job_id = gone.job_id AND t.part = gone.part
