SELECT id, payload_digest FROM jobs WHERE owner = %(owner)s AND idempotency_key = %(idempotency_key)s
