-- What decides on a job's request. Every holder's row counts, until or not: a renewal may be under way.
-- Who was called and does not come is not counted as ahead for ever: its worker may be busy, or gone.
SELECT
    (SELECT count(*) FROM concurrency_holders WHERE label = %(label)s) AS in_use,
    LEAST(%(capacity)s::integer,
        (SELECT min(capacity) FROM concurrency_holders WHERE label = %(label)s),
        (SELECT min(capacity) FROM concurrency_waiters WHERE label = %(label)s AND job_id <> %(job_id)s
            AND (called_at IS NULL OR called_at > clock_timestamp() - make_interval(secs => %(call_s)s)))) AS capacity,
    EXISTS (SELECT FROM concurrency_holders WHERE label = %(label)s AND job_id = %(job_id)s) AS is_inside,
    (SELECT count(*) FROM concurrency_waiters AS o JOIN jobs AS p ON p.id = o.job_id
        WHERE o.label = %(label)s AND o.job_id <> %(job_id)s
            AND (o.called_at IS NULL OR o.called_at > clock_timestamp() - make_interval(secs => %(call_s)s))
            AND (p.priority, o.ticket) < (j.priority, COALESCE(w.ticket, 9223372036854775807))) AS ahead,
    (SELECT extract(epoch FROM min(until) - clock_timestamp()) FROM concurrency_holders
        WHERE label = %(label)s)::double precision AS frees_in_s,
    COALESCE(extract(epoch FROM clock_timestamp() - w.since), 0)::double precision AS waited_s,
    EXISTS (SELECT FROM batch_checkpoints AS c
        WHERE c.job_id = j.id AND j.state IN ('queued', 'running') AND c.due_at IS NOT NULL
            AND (c.due_at <= clock_timestamp() OR (c.holder IS NULL AND starts_with(c.wait_reason, %(prefix)s)))) AS has_work
FROM jobs AS j
LEFT JOIN concurrency_waiters AS w ON w.job_id = j.id AND w.label = %(label)s
WHERE j.id = %(job_id)s
