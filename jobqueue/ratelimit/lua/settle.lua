-- Settles many slots of one provider.
-- ARGV: configuration, run id, least epoch, results as JSON, jitter per mille, nonce, now.
-- A result: id, cost, use, scopes (indices), pauses ({scope, us}), latency_us, operation, size (1: too large).
-- Answers {settled, JSON of what must outlive Redis} | {-1, ms until the rebuild lease ends}.

local conf, results = cjson.decode(ARGV[1]), cjson.decode(ARGV[4])
local jitter, now = tonumber(ARGV[5]), clock(ARGV[7])
local epoch = epoch_of(conf, ARGV[2], ARGV[3])
if not epoch then return ask_to_rebuild(conf, ARGV[6]) end

local scopes, k = {}, 4
for i, scope in ipairs(conf.scopes) do
  scopes[i], k = load(conf, scope, k, epoch, now)
  if not scopes[i] then
    redis.call('DEL', KEYS[1])
    return ask_to_rebuild(conf, ARGV[6])
  end
  scopes[i].sent, scopes[i].units = 0, 0
end

local function pause(s, us)
  if now + us > s.blocked_until then
    s.blocked_until, s.blocked_why, s.dirty, s.paused = now + us, 'throttled', true, true
  end
end

-- Only a slot still held counts, so a repeat or a late answer changes nothing.
local function settle(s, r)
  if redis.call('ZREM', s.slots, r.id) == 0 then return false end
  s.n, s.u, s.dirty = s.n - 1, s.u - r.cost, true
  if r.use ~= 'unused' then s.sent, s.units = s.sent + 1, s.units + r.cost end
  breaker.record(s, r.id, r.use == 'ok' and 1 or r.use == 'failure' and 0 or nil, r.latency_us, now, jitter)
  if r.latency_us > 0 then
    local weight = s.latency > 0 and LATENCY_WEIGHT or 1
    s.latency = s.latency + weight * (r.latency_us - s.latency)
  end
  return true
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

local settled = 0
for _, r in ipairs(results) do
  local is_held = false
  for _, index in ipairs(r.scopes) do is_held = settle(scopes[index], r) or is_held end
  if is_held then
    settled = settled + 1
    if r.operation ~= '' then judge_batch(r) end
  end
  -- A pause holds even if the slot is long gone: the provider said so.
  if r.pause_us > 0 then pause(scopes[r.pause_scope], r.pause_us) end
end

local changed = {}
for index, s in ipairs(scopes) do
  if s.sent > 0 then book(s, now, s.sent, s.units) end
  save(s, now)
  if s.paused or s.breaker_changed then
    changed[#changed + 1] = {
      scope = index, paused = s.paused or false, blocked_us = math.max(0, s.blocked_until - now),
      breaker_changed = s.breaker_changed or false, breaker = breaker.describe(s, now),
    }
  end
end
redis.call('PEXPIRE', KEYS[1], conf.ttl_ms)
return {settled, #changed > 0 and cjson.encode(changed) or '[]'}
