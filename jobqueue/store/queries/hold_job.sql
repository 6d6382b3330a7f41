-- Held to the end of the transaction: the job's state stays what it is meanwhile.
SELECT state FROM jobs WHERE id = %(job_id)s FOR SHARE
