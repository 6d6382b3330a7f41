SELECT seq, key, payload FROM job_items
WHERE job_id = %(job_id)s AND part = %(part)s AND seq >= %(seq)s
ORDER BY seq
LIMIT %(count)s
