-- Whoever ends the job or takes its end back does so one after the other, each seeing what the other did to the parts.
SELECT id FROM jobs WHERE id = %(job_id)s FOR NO KEY UPDATE
