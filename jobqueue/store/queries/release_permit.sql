-- A request that nobody waits for any more may still be at the provider: until it must have ended, the permit stays.
-- Whoever had a turn goes to the end of the line, and is without a permit from now on.
WITH kept AS (
    UPDATE concurrency_holders SET until = clock_timestamp() + make_interval(secs => %(busy_s)s)
    WHERE label = %(label)s AND holder = %(holder)s AND %(busy_s)s > 0
), gone AS (
    DELETE FROM concurrency_holders WHERE label = %(label)s AND holder = %(holder)s AND %(busy_s)s <= 0
)
UPDATE concurrency_waiters SET ticket = DEFAULT, since = clock_timestamp(), called_at = NULL
WHERE label = %(label)s AND job_id = %(job_id)s
