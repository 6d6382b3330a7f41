-- What the scripts share: loading, counting and saving the state of one scope.
-- KEYS: meta, lease, health, then for each scope its hash, slots, probes and one list per window.

local LATENCY_WEIGHT = 0.2
local LONGEST_KEPT_MS = 30 * 86400000
local FIELDS = {'epoch', 'n', 'u', 'blocked_until', 'blocked_why', 'latency', unpack(breaker.fields)}

-- The state is ours when this very server wrote it, for these windows, and nobody asked for a later epoch.
local function epoch_of(conf, run_id, least_epoch)
  local meta = redis.call('HMGET', KEYS[1], 'run_id', 'epoch', 'windows')
  if meta[1] ~= run_id or meta[3] ~= conf.fingerprint then return nil end
  if tonumber(meta[2]) < tonumber(least_epoch) then return nil end
  return meta[2]
end

-- One client rebuilds at a time; the others look again soon. The lease only saves work, epochs keep it right.
local function ask_to_rebuild(conf, nonce)
  if redis.call('SET', KEYS[2], nonce, 'NX', 'PX', conf.rebuild_lease_ms) then return {-1, 0} end
  return {-1, math.max(1, redis.call('PTTL', KEYS[2]))}
end

-- Books `n` requests of `u` units as answered at `at`. They leave each window one length later.
local function book(s, at, n, u)
  for i, w in ipairs(s.conf.windows) do
    local weight, time = w.weighted and u or n, at
    if weight > 0 then
      local list, last = s.lists[i], nil
      if w.quantum > 0 then
        time = math.ceil(at / w.quantum) * w.quantum
        last = s.total[i] > 0 and redis.call('LINDEX', list, -1)
      end
      local last_time, last_weight = 0, 0
      if last then last_time, last_weight = split_entry(last) end
      if last and last_time >= time then
        redis.call('LSET', list, -1, integer(last_time) .. ':' .. integer(last_weight + weight))
      else
        redis.call('RPUSH', list, integer(time) .. ':' .. integer(weight))
      end
      redis.call('PEXPIRE', list, s.ttl_ms)
      s.total[i] = s.total[i] + weight
    end
  end
  s.dirty = true
end

local function cost_of(slot) return tonumber(string.match(slot, '(%d+)$')) end

-- Slots whose holder never came back count as answered at their deadline.
local function end_overdue_slots(s, now)
  local overdue = redis.call('ZRANGEBYSCORE', s.slots, '-inf', now, 'WITHSCORES')
  for i = 1, #overdue, 2 do
    local cost = cost_of(overdue[i])
    s.n, s.u = s.n - 1, s.u - cost
    book(s, tonumber(overdue[i + 1]), 1, cost)
  end
  if #overdue > 0 then redis.call('ZREMRANGEBYSCORE', s.slots, '-inf', now) end
end

-- Drops what has left the window; false when list and total disagree.
local function drop_expired(s, i, now)
  local list, length = s.lists[i], s.conf.windows[i].us
  while s.total[i] > 0 do
    local head = redis.call('LINDEX', list, 0)
    if not head then return false end
    local time, weight = split_entry(head)
    if time + length >= now then return true end
    redis.call('LPOP', list)
    s.total[i] = s.total[i] - weight
    s.dirty = true
  end
  return true
end

local function wipe(s)
  redis.call('DEL', s.hash, s.slots, s.probes, unpack(s.lists))
  s.fields = {}
end

-- The scope's state as of `now`, or nil when it contradicts itself (a key was evicted) and must be rebuilt.
local function load(conf, scope, k, epoch, now)
  local s = {
    conf = scope, hash = KEYS[k], slots = KEYS[k + 1], probes = KEYS[k + 2], lists = {}, total = {},
    ttl_ms = conf.ttl_ms, epoch = epoch, dirty = false,
  }
  for i = 1, #scope.windows do s.lists[i] = KEYS[k + 2 + i] end
  local names = {unpack(FIELDS)}
  for i, field in ipairs(scope.fields) do names[#FIELDS + i] = field end
  local f = redis.call('HMGET', s.hash, unpack(names))
  s.fields = f
  if not f[1] then
    if redis.call('EXISTS', s.slots, unpack(s.lists)) > 0 then return nil end
  elseif f[1] ~= epoch then
    wipe(s)
  end
  f = s.fields
  s.n, s.u = tonumber(f[2] or 0), tonumber(f[3] or 0)
  s.blocked_until, s.blocked_why = tonumber(f[4] or 0), f[5] or ''
  s.latency = tonumber(f[6] or 0)
  breaker.load(s, f, 6)
  for i = 1, #scope.windows do s.total[i] = tonumber(f[#FIELDS + i] or 0) end
  if s.n > 0 then
    if redis.call('ZCARD', s.slots) ~= s.n then return nil end
    end_overdue_slots(s, now)
  end
  for i = 1, #scope.windows do
    if not drop_expired(s, i, now) then return nil end
  end
  return s, k + 3 + #scope.windows
end

-- A cool-down, or a breaker that holds requests back, outlives an idle scope.
local function save(s, now)
  if not s.dirty then return end
  local values = {
    'epoch', s.epoch, 'n', integer(s.n), 'u', integer(s.u), 'blocked_until', integer(s.blocked_until),
    'blocked_why', s.blocked_why, 'latency', integer(s.latency),
  }
  breaker.values(s, values)
  for i, field in ipairs(s.conf.fields) do
    values[#values + 1] = field
    values[#values + 1] = integer(s.total[i])
  end
  redis.call('HSET', s.hash, unpack(values))
  local lasting = math.max(0, s.blocked_until - now, breaker.lasting_until(s) - now)
  redis.call('PEXPIRE', s.hash, integer(s.ttl_ms + math.min(LONGEST_KEPT_MS, lasting / 1000)))
end
