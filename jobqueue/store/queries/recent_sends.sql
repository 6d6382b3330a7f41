-- What became of the latest requests of a scope: batches_scope_sent_at_idx gives the newest, however many there are.
-- A batch that a crash left open was answered by nobody: it says nothing of the latency.
SELECT count(*) AS count,
    (avg(latency_s) FILTER (WHERE was_in_time))::double precision AS latency_s,
    COALESCE(stddev_samp(latency_s) FILTER (WHERE was_in_time), 0)::double precision AS spread_s,
    count(*) FILTER (WHERE status IN ('repeated', 'waiting', 'split')) AS repeats,
    count(*) FILTER (WHERE error LIKE 'RateLimited:%%') AS throttles,
    count(*) FILTER (WHERE error LIKE 'ProviderUnavailable:%%' OR error LIKE 'OutcomeUnknown:%%') AS outages
FROM (
    SELECT status, error, extract(epoch FROM closed_at - sent_at) AS latency_s, closed_at <= deadline_at AS was_in_time
    FROM batches
    WHERE scope = %(scope)s AND requests > 0 AND closed_at IS NOT NULL AND sent_at > now() - make_interval(secs => %(since_s)s)
    ORDER BY sent_at DESC
    LIMIT %(count)s
) AS latest
