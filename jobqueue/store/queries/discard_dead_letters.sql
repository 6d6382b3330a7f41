UPDATE dead_letters SET state = 'discarded', state_reason = %(reason)s, decided_at = now()
WHERE state = 'waiting' AND id = ANY (%(ids)s) RETURNING id
