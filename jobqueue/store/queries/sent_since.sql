-- One row a send; an open one may still be on the wire until its deadline.
SELECT scope, extract(epoch FROM now() - sent_at)::double precision AS sent_ago_s,
    extract(epoch FROM now() - closed_at)::double precision AS closed_ago_s,
    extract(epoch FROM deadline_at - now())::double precision AS deadline_in_s,
    cost_units, requests
FROM batches
WHERE (scope = %(provider)s OR scope LIKE %(of_accounts)s OR scope LIKE %(of_operations)s) AND requests > 0
    AND (closed_at IS NULL OR closed_at > now() - make_interval(secs => %(since_s)s))
    AND sent_at > now() - make_interval(secs => %(since_s)s + 120)
