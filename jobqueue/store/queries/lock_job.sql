-- Whoever ends the job or takes its end back does so one after the other, each seeing what the other did to the parts.
-- Not FOR SHARE: two that hold it and then both end the job would wait for each other.
SELECT id FROM jobs WHERE id = %(job_id)s FOR NO KEY UPDATE
