-- Forgets the given keys.
return redis.call('DEL', unpack(KEYS))
