-- Settles many slots of one provider.
-- ARGV: configuration, run id, least epoch, results as JSON, jitter per mille, nonce, now.
-- A result: id, cost, use, scopes (indices), latency_us, age_us (since the answer), operation, size (1: too large),
-- pause_us, pause_scope, hinted (the provider named the pause), learn (window a throttle speaks of), malformed,
-- reports {{scope, window, remaining, us until it resets}}.
-- Answers {settled, JSON of what must outlive Redis, JSON of whose turn came early} | {-1, ms} | {-2, 0}.

local conf, results = cjson.decode(ARGV[1]), cjson.decode(ARGV[4])
local jitter, now = tonumber(ARGV[5]), clock(ARGV[7])
local LONGEST_UNHINTED, UNLIMITED, LEAST_THOUGHT = 3600000000, 2 ^ 40, 20

-- What is counted has changed and was counted anew, these slots with it; only the pauses are news.
local function pause_outdated()
  local epoch, hashes, k = redis.call('HGET', KEYS[1], 'epoch'), {}, 4
  for i, scope in ipairs(conf.scopes) do
    hashes[i], k = KEYS[k], k + 5 + #scope.windows
  end
  for _, r in ipairs(results) do
    local hash = hashes[r.pause_scope]
    local kept = redis.call('HMGET', hash, 'epoch', 'blocked_until')
    if r.pause_us > 0 and kept[1] == epoch and tonumber(kept[2] or 0) < now + r.pause_us then
      redis.call('HSET', hash, 'blocked_until', integer(now + r.pause_us), 'blocked_why', 'throttled')
      redis.call('PEXPIRE', hash, integer(conf.ttl_ms + r.pause_us / 1000))
    end
  end
end

local scopes, _, otherwise = load_all(conf, ARGV[2], ARGV[3], ARGV[6], now, true)
if not scopes then
  if otherwise[1] == -2 then pause_outdated() end
  return otherwise
end

-- A success says that the limit is at least what was sent; see jobqueue/model/learned.py.
local function learn_from_success(s, i, sent_at)
  local x = s.extra[i]
  if not x or x.at == 0 then return end
  if now - x.at >= 6 * s.conf.windows[i].us then
    x.at, x.known, x.base, x.proofs = 0, 0, 0, 0
  elseif sent_at <= x.at then
    if x.known <= x.base then return end
    x.known = math.min(x.known + 1, 2 * x.base)
  elseif s.total[i] > sure_of(x) then
    x.known, x.proofs = s.total[i], x.proofs + 1
  else
    return
  end
  if sure_of(x) >= s.conf.windows[i].limit then x.at, x.known, x.base, x.proofs = 0, 0, 0, 0 end
  s.dirty, s.extra_dirty, s.learned_changed = true, true, true
end

local function succeed(s, sent_at)
  if sent_at > s.throttled_at then s.throttles = 0 end
  local margin = s.conf.margin
  if margin then s.margin = math.max(margin.least, s.margin - math.floor(s.margin / 1024)) end
  for i, w in ipairs(s.conf.windows) do
    if w.learnable then learn_from_success(s, i, sent_at) end
  end
end

-- Only a slot still held counts, so a repeat or a late answer changes nothing.
local function settle(s, r)
  if redis.call('ZREM', s.slots, r.id) == 0 then return false end
  s.n, s.u, s.dirty = s.n - 1, s.u - r.cost, true
  if r.use == 'unused' then
    s.given_back = (s.given_back or 0) + 1
  else
    local answered_at = now - r.age_us
    local sent_at = answered_at - r.latency_us
    for i, w in ipairs(s.conf.windows) do
      local weight = w.weighted and r.cost or 1
      local at = answered_at
      if w.eager and r.latency_us > 0 then at = math.min(answered_at, sent_at + s.margin) end
      if weight > 0 then book_window(s, i, at, weight) end
    end
    if r.use == 'ok' then succeed(s, sent_at) end
  end
  breaker.record(s, r.id, r.use == 'ok' and 1 or r.use == 'failure' and 0 or nil, r.latency_us, now, jitter)
  if r.latency_us > 0 then
    local weight = s.latency > 0 and LATENCY_WEIGHT or 1
    s.latency = s.latency + weight * (r.latency_us - s.latency)
  end
  return true
end

-- What was answered well of what the provider counts: its window began when its pause says, or else one length before.
local function level_of(s, r, answered_at)
  local w, list = s.conf.windows[r.learn], s.lists[r.learn]
  local since = answered_at - w.us + s.latency
  -- Whole seconds are rounded up, so it may have begun one earlier.
  if r.hinted then since = math.max(since, answered_at + r.pause_us - 1000000 - w.us) end
  local sum, stop = 0, -1
  while true do
    local entries = redis.call('LRANGE', list, stop - 63, stop)
    for i = #entries, 1, -1 do
      local time, weight = split_entry(entries[i])
      if time <= since then return math.max(0, sum - 1) end
      sum = sum + weight
    end
    if #entries < 64 then return math.max(0, sum - 1) end
    stop = stop - 64
  end
end

-- Throttles of requests that were under way when the first one came say nothing new.
local function learn_from_throttle(s, r)
  local answered_at = now - r.age_us
  if answered_at - r.latency_us <= s.throttled_at then return end
  s.throttles, s.throttled_at, s.dirty = s.throttles + 1, answered_at, true
  local w = s.conf.windows[r.learn]
  if not w then return end
  local level = level_of(s, r, answered_at)
  -- Once the margin is as wide as it gets, it is not the margin that is wrong.
  if w.eager and s.conf.margin and s.total[r.learn] + s.n >= 0.9 * w.limit and s.margin * 2 <= s.conf.margin.most then
    s.margin = s.margin * 2
    return
  end
  local x = extra_of(s, r.learn)
  local most = learned_limit(s, r.learn, answered_at)
  if most >= UNLIMITED then
    most = math.max(LEAST_THOUGHT, level)
  elseif x.at == 0 then
    level = math.min(level, math.floor(most / 2))
  end
  x.known, x.base, x.at, x.proofs = math.min(level, most), math.floor(most / 2), answered_at, 0
  s.learned_changed = true
end

-- A pause the provider did not name doubles with every throttle in a row.
local function pause(s, r)
  local us = r.pause_us
  if not r.hinted then
    us = us * 2 ^ math.min(4, math.max(0, s.throttles - 1))
    us = math.min(math.max(r.pause_us, LONGEST_UNHINTED), us + math.floor(us * jitter / 2000))
  end
  if now + us > s.blocked_until then
    s.blocked_until, s.blocked_why, s.dirty, s.paused = now + us, 'throttled', true, true
  end
end

local function judge_batch(r)
  local health = tonumber(redis.call('HGET', KEYS[3], r.operation) or conf.health.full)
  if r.size == 1 then
    health = math.max(1, math.floor(health / 2))
  elseif r.use == 'ok' and health < conf.health.full then
    health = math.min(conf.health.full, health + conf.health.growth)
  else
    return
  end
  redis.call('HSET', KEYS[3], r.operation, health)
  redis.call('PEXPIRE', KEYS[3], conf.health.ttl_ms)
end

-- What the provider counts beyond all we sent is somebody else's: it may still be in flight here, never less than that.
local seen = {}
local function follow(report)
  local s, i = scopes[report[1]], report[2]
  local w = s.conf.windows[i]
  local others = math.max(0, w.limit - report[3] - s.total[i] - (w.weighted and s.u or s.n))
  local key = report[1] .. '.' .. i
  if others > (seen[key] or -1) then
    seen[key] = others
    if others > 0 or s.extra[i] then
      local x = extra_of(s, i)
      x.foreign, x.foreign_until = others, others > 0 and now + math.min(w.us, math.max(1, report[4])) or 0
    end
  end
end

local settled, malformed = 0, 0
for _, is_throttle in ipairs({false, true}) do
  for _, r in ipairs(results) do
    if (r.use == 'throttled') == is_throttle then
      local is_held = false
      for _, index in ipairs(r.scopes) do is_held = settle(scopes[index], r) or is_held end
      if is_held then
        settled = settled + 1
        malformed = malformed + r.malformed
        if r.operation ~= '' then judge_batch(r) end
        if is_throttle then learn_from_throttle(scopes[r.pause_scope], r) end
      end
      -- A pause holds even if the slot is long gone: the provider said so.
      if r.pause_us > 0 then pause(scopes[r.pause_scope], r) end
    end
  end
end
for _, r in ipairs(results) do
  for _, report in ipairs(r.reports) do follow(report) end
end
if malformed > 0 then redis.call('HINCRBY', KEYS[1], 'malformed', malformed) end

local changed, called = {}, {}
for index, s in ipairs(scopes) do
  if s.given_back then
    for _, owner in ipairs(call_forward(s, s.given_back, now)) do called[#called + 1] = owner end
  end
  save(s, now)
  if s.paused or s.breaker_changed or s.learned_changed then
    local d = describe(s, now)
    d.scope, d.paused, d.breaker_changed = index, s.paused or false, s.breaker_changed or false
    d.learned_changed = s.learned_changed or false
    changed[#changed + 1] = d
  end
end
return {settled, #changed > 0 and cjson.encode(changed) or '[]', #called > 0 and cjson.encode(called) or '[]'}
