-- Installs a state counted from the history, unless a state of this server and an equal or later epoch is there already.
-- ARGV: configuration, run id, epoch, adopt (1: keep what there is, whoever wrote it), state as JSON, now, and the run id
-- the epoch was begun for: under another server process its grants may be older than the history it was counted from.
-- Per scope: blocked_us, blocked_why, breaker, opens, open_us, slots {remaining us, cost, count}, windows {{us ago, weight}}.
-- Answers 1 when installed, 0 when not needed.

redis.call('DEL', KEYS[2])
if ARGV[2] ~= ARGV[7] then return 0 end
local conf, epoch, now = cjson.decode(ARGV[1]), ARGV[3], clock(ARGV[6])
local meta = redis.call('HMGET', KEYS[1], 'run_id', 'epoch', 'windows')
local is_fit = meta[3] == conf.fingerprint
if is_fit and meta[1] == ARGV[2] and tonumber(meta[2]) >= tonumber(epoch) then return 0 end
if ARGV[4] == '1' and is_fit then
  redis.call('HSET', KEYS[1], 'run_id', ARGV[2])
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
  local s = {
    conf = scope, hash = KEYS[k], slots = KEYS[k + 1], probes = KEYS[k + 2], lists = {}, total = {},
    ttl_ms = conf.ttl_ms, epoch = epoch, dirty = true, n = 0, u = 0, latency = 0,
    blocked_until = state.blocked_us > 0 and now + state.blocked_us or 0, blocked_why = state.blocked_why,
  }
  for i = 1, #scope.windows do s.lists[i], s.total[i] = KEYS[k + 2 + i], 0 end
  wipe(s)
  breaker.restore(s, state, now)
  for _, held in ipairs(state.slots) do hold(s, held, s.n) end
  if s.n > 0 then redis.call('PEXPIRE', s.slots, s.ttl_ms) end
  for i, entries in ipairs(state.windows) do
    for _, entry in ipairs(entries) do
      redis.call('RPUSH', s.lists[i], integer(now - entry[1]) .. ':' .. integer(entry[2]))
      s.total[i] = s.total[i] + entry[2]
    end
    if s.total[i] > 0 then redis.call('PEXPIRE', s.lists[i], s.ttl_ms) end
  end
  save(s, now)
  return k + 3 + #scope.windows
end

local states, k = cjson.decode(ARGV[5]), 4
for i, scope in ipairs(conf.scopes) do k = install(scope, states[i], k) end
redis.call('HSET', KEYS[1], 'run_id', ARGV[2], 'epoch', epoch, 'windows', conf.fingerprint)
redis.call('PEXPIRE', KEYS[1], conf.ttl_ms)
return 1
