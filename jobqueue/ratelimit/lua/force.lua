-- Puts the breaker of one scope where a person wants it.
-- ARGV: configuration of that scope, run id, least epoch, status, nonce, now.
-- Answers {1, JSON of the breaker} | {-1, ms until the rebuild lease ends}.

local conf, now = cjson.decode(ARGV[1]), clock(ARGV[6])
local epoch = epoch_of(conf, ARGV[2], ARGV[3])
if not epoch then return ask_to_rebuild(conf, ARGV[5]) end
local s = load(conf, conf.scopes[1], 4, epoch, now)
if not s then
  redis.call('DEL', KEYS[1])
  return ask_to_rebuild(conf, ARGV[5])
end
breaker.force(s, ARGV[4], now)
save(s, now)
redis.call('PEXPIRE', KEYS[1], conf.ttl_ms)
return {1, cjson.encode(breaker.describe(s, now))}
