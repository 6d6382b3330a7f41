-- What ran out, and what dead holders left. Their jobs are without a permit from now on.
WITH ended AS (
    DELETE FROM concurrency_holders
    WHERE label = %(label)s AND (until <= clock_timestamp() OR holder = ANY (%(dead)s::text[]))
    RETURNING job_id, capacity
), reset AS (
    UPDATE concurrency_waiters SET since = clock_timestamp()
    WHERE label = %(label)s AND job_id IN (SELECT job_id FROM ended)
)
SELECT job_id, capacity FROM ended
