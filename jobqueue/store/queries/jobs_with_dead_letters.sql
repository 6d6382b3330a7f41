SELECT job_id, max(job_type) AS job_type, max(provider) AS provider, max(operation) AS operation, count(*) AS count, min(reason) AS reason
FROM dead_letters WHERE state = 'waiting' GROUP BY job_id ORDER BY job_id DESC LIMIT 500
