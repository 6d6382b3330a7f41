SELECT 1 AS yes FROM batches WHERE job_id = %(job_id)s AND part = %(part)s AND no = %(no)s
