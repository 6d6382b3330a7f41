INSERT INTO jobs (type, provider, account, operation, priority, options, owner, idempotency_key, payload_digest, is_unique,
    rollback_of, item_count, planned_at, deadline_at, summary)
VALUES (%(type)s, %(provider)s, %(account)s, %(operation)s, %(priority)s, %(options)s::jsonb, %(owner)s, %(idempotency_key)s,
    %(payload_digest)s, %(is_unique)s, %(rollback_of)s, %(item_count)s, CASE WHEN %(is_planned)s THEN now() END,
    now() + make_interval(secs => %(max_run_s)s), %(summary)s::jsonb)
ON CONFLICT (owner, idempotency_key) DO NOTHING
RETURNING id
