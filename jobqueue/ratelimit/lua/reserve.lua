-- Grants up to `want` slots in whole groups as every meter of every scope allows, or names the one that lifts last.
-- ARGV: configuration, run id, least epoch, operation (take, hit, look, glance), want, group, cost, slot life in us, nonce, now,
-- owner, class. A denied owner gets a place in line; a better class and those whose time has come go first.
-- Answers {n, epoch} | {0, epoch, reason, scope, window, lift in us, in line} | {-1, ms until the rebuild lease ends}
-- | {-2, 0}: the caller's configuration is outdated. `look` adds JSON, `glance` the same without those in line.

local conf = cjson.decode(ARGV[1])
local op, want, least, cost = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now, owner, class = clock(ARGV[10]), ARGV[11], tonumber(ARGV[12])
local scopes, epoch, otherwise = load_all(conf, ARGV[2], ARGV[3], ARGV[9], now)
if not scopes then return otherwise end

local granted, denial

-- `allowed` more requests pass this constraint; if that is too few it lifts at `lifts_at`.
local function constrain(allowed, reason, scope, window, lifts_at)
  granted = math.min(granted, allowed)
  if allowed < least and (not denial or lifts_at > denial[4]) then denial = {reason, scope, window, lifts_at} end
end

local function check_windows(s, index, others_n, others_u)
  for i, w in ipairs(s.conf.windows) do
    local weight = w.weighted and cost or 1
    local limit = math.max(learned_limit(s, i, now), math.min(w.limit, least * weight))
    local used = s.total[i] + foreign(s, i, now) + (w.weighted and s.u + others_u or s.n + others_n)
    local allowed = weight > 0 and math.floor((limit - used) / weight) or want
    local at_least = weight > 0 and math.min(least, math.floor(limit / weight)) or 0
    if allowed < at_least then
      local frees_at = freed_at(s, i, used + at_least * weight - limit, now)
      constrain(allowed, 'window', index, i, math.min(frees_at, tried_at(s, i, now)))
    else
      granted = math.min(granted, allowed)
    end
  end
end

local function check(s, index, others_n, others_u)
  if now < s.blocked_until then constrain(0, 'cooldown', index, 0, s.blocked_until) end
  local permits, lifts_at = breaker.decide(s, now)
  if permits then constrain(permits, 'breaker', index, 0, math.max(lifts_at, now + 1)) end
  local cap = s.conf.max_concurrency
  if cap and cap - s.n - others_n < least then
    -- The mean time to the next answer; a guess, and so a lower bound.
    local wait = math.max(10000, s.latency / math.max(1, s.n))
    constrain(cap - s.n - others_n, 'concurrency', index, 0, now + math.min(wait, 1000000))
  elseif cap then
    granted = math.min(granted, cap - s.n - others_n)
  end
  check_windows(s, index, others_n, others_u)
end

local function check_all(claims)
  granted, denial = want, nil
  for index, s in ipairs(scopes) do
    check(s, index, claims(s))
    if is_held_back(s, class, now, conf.horizon_us) then constrain(0, 'priority', index, 0, now + conf.look_again_us) end
  end
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
      if s.n == 0 then redis.call('PEXPIRE', s.slots, s.ttl_ms) end
      s.n, s.u, s.moved = s.n + #slots, s.u + #slots * cost, true
      breaker.lease(s, slots, deadline, now)
    end
    serve_line(s, owner, #slots, want)
  end
end

local function look()
  local details = {scopes = {}, health = redis.call('HGETALL', KEYS[3]),
    malformed = tonumber(redis.call('HGET', KEYS[1], 'malformed') or 0)}
  for i, s in ipairs(scopes) do
    details.scopes[i] = describe(s, now)
    details.scopes[i].waiting = op == 'look' and describe_line(s, now, 32) or {}
  end
  return cjson.encode(details)
end

for _, s in ipairs(scopes) do drop_absent(s, now, conf.grace_us) end
check_all(function(s) return kept_for_others(s, owner, class, now) end)

local answer = {granted, epoch}
if denial then
  local in_line = 0
  if owner ~= '' and denial[1] ~= 'breaker' then
    -- The time to ask again is one when all ahead in line can have been served.
    check_all(function(s) return ahead_of(s, owner, class) end)
    if op == 'take' then
      for index, s in ipairs(scopes) do
        if index == denial[2] and denial[1] ~= 'breaker' then
          denial[4], in_line = join_line(s, owner, class, want, cost, math.max(denial[4], now + 1), now), 1
        else
          leave_line(s, owner)
        end
      end
    end
  end
  answer = {0, epoch, denial[1], denial[2], denial[3], integer(math.max(1, denial[4] - now)), in_line}
elseif op == 'take' or op == 'hit' then
  granted = granted - granted % least
  answer[1] = granted
  local slots = {}
  for i = 1, granted do slots[i] = ARGV[9] .. '.' .. i .. '.' .. ARGV[7] end
  grant(slots)
end
for _, s in ipairs(scopes) do save(s, now) end
if op == 'look' or op == 'glance' then
  for i = #answer + 1, 7 do answer[i] = '' end
  answer[8] = look()
end
return answer
