-- What is left once everybody in line who comes when called has one; NULL when nobody is inside or in line.
SELECT (SELECT min(capacity) FROM (
        SELECT capacity FROM concurrency_holders WHERE label = %(label)s
        UNION ALL SELECT capacity FROM concurrency_waiters WHERE label = %(label)s
                AND (called_at IS NULL OR called_at > clock_timestamp() - make_interval(secs => %(call_s)s))) AS declared)
    - (SELECT count(*) FROM concurrency_holders WHERE label = %(label)s)
    - (SELECT count(*) FROM concurrency_waiters WHERE label = %(label)s
        AND (called_at IS NULL OR called_at > clock_timestamp() - make_interval(secs => %(call_s)s))) AS permits
