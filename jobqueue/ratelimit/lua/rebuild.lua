-- Installs a state counted from the history, unless a state of this server and an equal or later epoch is there already.
-- ARGV: configuration, run id, epoch, adopt (1: keep what there is, whoever wrote it), state as JSON, now, and the run id
-- the epoch was begun for: under another server process its grants may be older than the history it was counted from.
-- Per scope: blocked_us, blocked_why, breaker, opens, open_us, slots {remaining us, cost, count}, windows {{us ago, weight}},
-- learned {{window, known, base, us ago, proofs}}.
-- Answers 1 when installed, 0 when not needed.

redis.call('DEL', KEYS[2])
if ARGV[2] ~= ARGV[7] then return 0 end
local conf, epoch, now = cjson.decode(ARGV[1]), ARGV[3], clock(ARGV[6])
local meta = redis.call('HMGET', KEYS[1], 'run_id', 'epoch', 'windows', 'version')
local is_fit = meta[3] == conf.fingerprint
if meta[1] == ARGV[2] and conf.version < tonumber(meta[4] or 0) then return 0 end
if is_fit and meta[1] == ARGV[2] and tonumber(meta[2]) >= tonumber(epoch) then return 0 end
if ARGV[4] == '1' and is_fit then
  redis.call('HSET', KEYS[1], 'run_id', ARGV[2], 'version', integer(conf.version))
  redis.call('PEXPIRE', KEYS[1], conf.ttl_ms)
  return 1
end

local function hold(s, held, first)
  for i = 1, held[3] do
    local slot = 'r' .. epoch .. '.' .. (first + i) .. '.' .. integer(held[2])
    redis.call('ZADD', s.slots, now + held[1], slot)
  end
  s.n, s.u = s.n + held[3], s.u + held[3] * held[2]
end

local function install(scope, state, k)
  local s, next_k = fresh(conf, scope, k, epoch)
  wipe(s)
  read_fields(s, {})
  breaker.restore(s, state, now)
  s.blocked_until, s.blocked_why = state.blocked_us > 0 and now + state.blocked_us or 0, state.blocked_why
  for _, held in ipairs(state.slots) do hold(s, held, s.n) end
  if s.n > 0 then redis.call('PEXPIRE', s.slots, s.ttl_ms) end
  for i, entries in ipairs(state.windows) do
    for _, entry in ipairs(entries) do book_window(s, i, now - entry[1], entry[2]) end
  end
  for _, learned in ipairs(state.learned) do
    local x = extra_of(s, learned[1])
    x.known, x.base, x.at, x.proofs = learned[2], learned[3], now - learned[4], learned[5]
  end
  s.dirty = true
  save(s, now)
  return next_k
end

local states, k = cjson.decode(ARGV[5]), 4
for i, scope in ipairs(conf.scopes) do k = install(scope, states[i], k) end
redis.call('HSET', KEYS[1], 'run_id', ARGV[2], 'epoch', epoch, 'windows', conf.fingerprint, 'version', integer(conf.version))
redis.call('PEXPIRE', KEYS[1], conf.ttl_ms)
return 1
