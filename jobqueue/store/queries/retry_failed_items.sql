-- Failed and unconfirmed items get an attempt again: their outcome goes into the history, the counters and the part's end are taken back.
WITH chosen AS (
    DELETE FROM item_outcomes AS o
    WHERE o.job_id = %(job_id)s AND o.status IN ('failed', 'unconfirmed')
        AND (%(seqs)s::bigint[] IS NULL OR o.seq = ANY (%(seqs)s::bigint[]))
    RETURNING o.part, o.seq, o.status, o.attempts, o.error, o.at
), waiting AS (
    INSERT INTO item_retries AS r (job_id, part, seq, attempts, due_at, is_in_doubt, history)
    SELECT %(job_id)s, part, seq, 0, now(), status = 'unconfirmed',
        jsonb_build_array(jsonb_build_object('status', status, 'attempts', attempts, 'error', error, 'at', at))
    FROM chosen
    ON CONFLICT (job_id, part, seq) DO UPDATE
    SET attempts = 0, due_at = now(), is_in_doubt = excluded.is_in_doubt, history = r.history || excluded.history
), counted AS (
    UPDATE batch_checkpoints AS c
    SET failed = c.failed - t.failed, unconfirmed = c.unconfirmed - t.unconfirmed, finished_at = NULL, hinted_at = NULL,
        due_at = CASE WHEN c.holder IS NULL THEN now() ELSE c.due_at END
    FROM (SELECT part, count(*) FILTER (WHERE status = 'failed') AS failed, count(*) FILTER (WHERE status = 'unconfirmed') AS unconfirmed
        FROM chosen GROUP BY part) AS t
    WHERE c.job_id = %(job_id)s AND c.part = t.part
), decided AS (
    UPDATE dead_letters AS d SET state = 'retried', decided_at = now()
    FROM chosen WHERE d.job_id = %(job_id)s AND d.part = chosen.part AND d.seq = chosen.seq AND d.state = 'waiting'
)
SELECT count(*) AS count FROM chosen
