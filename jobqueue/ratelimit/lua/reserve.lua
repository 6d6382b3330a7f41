-- Grants 1..want slots as every meter of every scope allows, or names the one that lifts last.
-- ARGV: configuration, run id, least epoch, operation (take, hit, look), want, least, cost, slot life in us, nonce, now.
-- Answers {n, epoch} | {0, epoch, reason, scope, window, lift in us} | {-1, ms until the rebuild lease ends}; `look` adds JSON.

local conf = cjson.decode(ARGV[1])
local op, want, least, cost = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = clock(ARGV[10])
local epoch = epoch_of(conf, ARGV[2], ARGV[3])
if not epoch then return ask_to_rebuild(conf, ARGV[9]) end

local scopes, k = {}, 4
for i, scope in ipairs(conf.scopes) do
  scopes[i], k = load(conf, scope, k, epoch, now)
  if not scopes[i] then
    redis.call('DEL', KEYS[1])
    return ask_to_rebuild(conf, ARGV[9])
  end
end

local granted = want
local denial

-- `allowed` more requests pass this constraint; if that is too few it lifts at `lifts_at`.
local function constrain(allowed, reason, scope, window, lifts_at)
  granted = math.min(granted, allowed)
  if allowed < least and (not denial or lifts_at > denial[4]) then denial = {reason, scope, window, lifts_at} end
end

-- When `need` weight will have left the window: exact for what was answered, a lower bound for what is in flight.
local function freed_at(s, i, need)
  local w, start, sum = s.conf.windows[i], 0, 0
  while sum < need do
    local entries = redis.call('LRANGE', s.lists[i], start, start + 63)
    if #entries == 0 then return now + w.us + 1 end
    for _, entry in ipairs(entries) do
      local time, weight = split_entry(entry)
      sum = sum + weight
      if sum >= need then return time + w.us + 1 end
    end
    start = start + 64
  end
  return now + 1
end

local function check_windows(s, index)
  for i, w in ipairs(s.conf.windows) do
    local weight = w.weighted and cost or 1
    local used = s.total[i] + (w.weighted and s.u or s.n)
    local allowed = weight > 0 and math.floor((w.limit - used) / weight) or want
    local at_least = weight > 0 and math.min(least, math.floor(w.limit / weight)) or 0
    if allowed < at_least then
      constrain(allowed, 'window', index, i, freed_at(s, i, used + at_least * weight - w.limit))
    else
      granted = math.min(granted, allowed)
    end
  end
end

local function check(s, index)
  if now < s.blocked_until then constrain(0, 'cooldown', index, 0, s.blocked_until) end
  local permits, lifts_at = breaker.decide(s, now)
  if permits then constrain(permits, 'breaker', index, 0, math.max(lifts_at, now + 1)) end
  local cap = s.conf.max_concurrency
  if cap > 0 and cap - s.n < least then
    -- The mean time to the next answer; a guess, and so a lower bound.
    local wait = math.max(10000, s.latency / math.max(1, s.n))
    constrain(cap - s.n, 'concurrency', index, 0, now + math.min(wait, 1000000))
  elseif cap > 0 then
    granted = math.min(granted, cap - s.n)
  end
  check_windows(s, index)
end

local function grant(slots)
  local deadline = now + tonumber(ARGV[8])
  for _, s in ipairs(scopes) do
    if op == 'hit' then
      book(s, now, #slots, #slots * cost)
    else
      local members = {}
      for i, slot in ipairs(slots) do members[2 * i - 1], members[2 * i] = deadline, slot end
      redis.call('ZADD', s.slots, unpack(members))
      redis.call('PEXPIRE', s.slots, s.ttl_ms)
      s.n, s.u, s.dirty = s.n + #slots, s.u + #slots * cost, true
      breaker.lease(s, slots, deadline, now)
    end
  end
  redis.call('PEXPIRE', KEYS[1], conf.ttl_ms)
end

local function describe(s)
  local d = {n = s.n, latency = s.latency, breaker = breaker.describe(s, now), windows = {}}
  d.blocked_us, d.blocked_why = math.max(0, s.blocked_until - now), s.blocked_why
  for i, w in ipairs(s.conf.windows) do
    local first, last = nil, nil
    if s.total[i] > 0 then
      first = split_entry(redis.call('LINDEX', s.lists[i], 0)) + w.us - now
      last = split_entry(redis.call('LINDEX', s.lists[i], -1)) + w.us - now
    end
    d.windows[i] = {used = s.total[i], in_flight = w.weighted and s.u or s.n, first_us = first or 0, last_us = last or 0}
  end
  return d
end

for index, s in ipairs(scopes) do check(s, index) end
local answer = {granted, epoch}
if denial then
  answer = {0, epoch, denial[1], denial[2], denial[3], integer(math.max(1, denial[4] - now))}
elseif op ~= 'look' then
  local slots = {}
  for i = 1, granted do slots[i] = ARGV[9] .. '.' .. i .. '.' .. ARGV[7] end
  grant(slots)
end
for _, s in ipairs(scopes) do save(s, now) end
if op == 'look' then
  local details = {scopes = {}, health = redis.call('HGETALL', KEYS[3])}
  for i, s in ipairs(scopes) do details.scopes[i] = describe(s) end
  for i = #answer + 1, 6 do answer[i] = '' end
  answer[7] = cjson.encode(details)
end
return answer
