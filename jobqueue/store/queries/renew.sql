WITH mine AS (
    UPDATE batch_checkpoints AS c
    SET due_at = now() + make_interval(secs => %(lease_s)s)
    FROM unnest(%(parts)s::integer[], %(fences)s::bigint[]) AS p (part, fence)
    WHERE c.job_id = %(job_id)s AND c.part = p.part AND c.fence = p.fence AND c.holder IS NOT NULL
    RETURNING c.part
)
SELECT part FROM mine
