-- Seconds until the last request of the job that may still be on the wire has passed its deadline.
SELECT COALESCE(max(extract(epoch FROM deadline_at - now())), 0)::double precision AS longest_s
FROM batches WHERE job_id = %(job_id)s AND status IN ('observing', 'sent')
