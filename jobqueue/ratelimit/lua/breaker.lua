-- The breaker of jobqueue/model/breaker.py, executed on a scope loaded by common.lua.

local breaker = {fields = {'breaker', 'open_until', 'opens', 'successes', 'buckets'}}
local BUCKETS = 10

function breaker.load(s, f, at)
  s.breaker, s.open_until, s.opens = f[at + 1] or 'closed', tonumber(f[at + 2] or 0), tonumber(f[at + 3] or 0)
  s.successes, s.buckets = tonumber(f[at + 4] or 0), f[at + 5] or ''
end

function breaker.values(s, out)
  local values = {'breaker', s.breaker, 'open_until', integer(s.open_until), 'opens', integer(s.opens),
    'successes', integer(s.successes), 'buckets', s.buckets}
  for _, value in ipairs(values) do out[#out + 1] = value end
end

function breaker.lasting_until(s) return s.open_until end

function breaker.restore(s, state, now)
  s.breaker, s.opens, s.open_until = state.breaker, state.opens, state.open_us > 0 and now + state.open_us or 0
  s.successes, s.buckets = 0, ''
end

function breaker.describe(s, now)
  return {status = s.breaker, opens = s.opens, open_us = math.max(0, s.open_until - now)}
end

function breaker.decide(s, now)
  local c = s.conf.breaker
  if not c or s.breaker == 'closed' then return nil, 0 end
  if s.breaker == 'open' then
    if now < s.open_until then return 0, s.open_until end
    return c.probes, 0
  end
  redis.call('ZREMRANGEBYSCORE', s.probes, '-inf', now)
  local leases = redis.call('ZRANGE', s.probes, 0, -1, 'WITHSCORES')
  return math.max(0, c.probes - s.successes - #leases / 2), math.min(tonumber(leases[2] or now), now + 1000000)
end

function breaker.lease(s, slots, deadline, now)
  if not s.conf.breaker or s.breaker == 'closed' then return end
  if s.breaker == 'open' then
    s.breaker, s.successes, s.open_until = 'half_open', 0, 0
    redis.call('DEL', s.probes)
  end
  for _, slot in ipairs(slots) do redis.call('ZADD', s.probes, deadline, slot) end
  redis.call('PEXPIRE', s.probes, s.ttl_ms)
  s.dirty = true
end

local function open(s, now, jitter)
  local c = s.conf.breaker
  s.opens = s.opens + 1
  local base = math.min(c.open_max_us, c.open_us * 2 ^ math.min(s.opens - 1, 20))
  s.breaker = 'open'
  s.open_until = now + base + math.floor(base * c.jitter * jitter / 1000000)
  s.successes, s.buckets, s.breaker_changed = 0, '', true
  redis.call('DEL', s.probes)
end

local function close(s)
  s.breaker, s.open_until, s.opens, s.successes, s.buckets = 'closed', 0, 0, 0, ''
  s.breaker_changed = true
  redis.call('DEL', s.probes)
end

-- Buckets are kept as "number:calls:failures" joined by blanks, oldest first.
local function count(s, now, failed)
  local number = math.floor(now / s.conf.breaker.bucket_us)
  local kept, calls, failures = {}, 1, failed
  for b, c, f in string.gmatch(s.buckets, '(%d+):(%d+):(%d+)') do
    b, c, f = tonumber(b), tonumber(c), tonumber(f)
    if number - BUCKETS < b then
      calls, failures = calls + c, failures + f
      kept[#kept + 1] = {b, c, f}
    end
  end
  local last = kept[#kept]
  if last and last[1] >= number then
    last[2], last[3] = last[2] + 1, last[3] + failed
  else
    kept[#kept + 1] = {number, 1, failed}
  end
  for i, b in ipairs(kept) do kept[i] = integer(b[1]) .. ':' .. integer(b[2]) .. ':' .. integer(b[3]) end
  s.buckets = table.concat(kept, ' ')
  return calls, failures
end

-- `outcome` is 1 for a success, 0 for a failure, nil when the answer says nothing about the provider's health.
function breaker.record(s, slot, outcome, latency_us, now, jitter)
  local c = s.conf.breaker
  if not c or s.breaker == 'open' then return end
  if s.breaker == 'half_open' then
    redis.call('ZREMRANGEBYSCORE', s.probes, '-inf', now)
    if redis.call('ZREM', s.probes, slot) == 0 or not outcome then return end
    if outcome == 0 then return open(s, now, jitter) end
    if s.successes + 1 >= c.probes then return close(s) end
    s.successes = s.successes + 1
  elseif outcome then
    local calls, failures = count(s, now, 1 - outcome)
    if calls >= c.minimum_calls and failures * 1000 >= c.failure_permille * calls then open(s, now, jitter) end
  end
end
