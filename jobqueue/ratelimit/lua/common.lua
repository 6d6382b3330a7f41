-- Loading and saving the state of one scope, and ending what its holders left behind.
-- KEYS: meta, lease, health, then for each scope its hash, slots, probes, waiting, wants and one list per window.

local LATENCY_WEIGHT = 0.2
local OWN_FIELDS = {
  'epoch', 'n', 'u', 'blocked_until', 'blocked_why', 'latency', 'throttles', 'throttled_at', 'margin', 'queue', 'kept_until',
}

-- The state is ours when this very server wrote it, for these windows, and nobody asked for a later epoch. A caller whose
-- configuration is older than the one in force is told so: -2; answers are still taken from it while it counts the same.
local function epoch_of(conf, run_id, least_epoch, is_answer)
  local meta = redis.call('HMGET', KEYS[1], 'run_id', 'epoch', 'windows', 'version')
  if meta[1] ~= run_id then return nil end
  local version = tonumber(meta[4] or 0)
  if conf.version < version and not (is_answer and meta[3] == conf.fingerprint) then return nil, {-2, 0} end
  if meta[3] ~= conf.fingerprint or tonumber(meta[2]) < tonumber(least_epoch) then return nil end
  if conf.version > version then redis.call('HSET', KEYS[1], 'version', integer(conf.version)) end
  return meta[2]
end

-- One client rebuilds at a time; the others look again soon. The lease only saves work, epochs keep it right.
local function ask_to_rebuild(conf, nonce)
  if redis.call('SET', KEYS[2], nonce, 'NX', 'PX', conf.rebuild_lease_ms) then return {-1, 0} end
  return {-1, math.max(1, redis.call('PTTL', KEYS[2]))}
end

local function cost_of(slot) return tonumber(string.match(slot, '(%d+)$')) end

-- Slots whose holder never came back count as answered at their deadline.
local function end_overdue_slots(s, now)
  local overdue = redis.call('ZRANGEBYSCORE', s.slots, '-inf', now, 'WITHSCORES')
  for i = 1, #overdue, 2 do
    local cost = cost_of(overdue[i])
    s.n, s.u, s.moved = s.n - 1, s.u - cost, true
    book(s, tonumber(overdue[i + 1]), 1, cost)
  end
  if #overdue > 0 then redis.call('ZREMRANGEBYSCORE', s.slots, '-inf', now) end
end

local function wipe(s)
  redis.call('DEL', s.hash, s.slots, s.probes, s.waiting, s.wants, unpack(s.lists))
end

local function read_extra(text)
  local foreign, until_us, known, base, at, proofs = string.match(text, '^(%d+):(%d+):(%d+):(%d+):(%d+):(%d+)$')
  return {
    foreign = tonumber(foreign), foreign_until = tonumber(until_us),
    known = tonumber(known), base = tonumber(base), at = tonumber(at), proofs = tonumber(proofs),
  }
end

local function write_extra(x)
  if x.at == 0 and x.foreign == 0 then return '' end
  local numbers = {x.foreign, x.foreign_until, x.known, x.base, x.at, x.proofs}
  for i, number in ipairs(numbers) do numbers[i] = integer(number) end
  return table.concat(numbers, ':')
end

-- What is known of window i besides its count; made when first needed.
local function extra_of(s, i)
  if not s.extra[i] then s.extra[i] = {foreign = 0, foreign_until = 0, known = 0, base = 0, at = 0, proofs = 0} end
  s.dirty, s.extra_dirty = true, true
  return s.extra[i]
end

local function fresh(conf, scope, k, epoch)
  local s = {
    conf = scope, hash = KEYS[k], slots = KEYS[k + 1], probes = KEYS[k + 2], waiting = KEYS[k + 3], wants = KEYS[k + 4],
    lists = {}, total = {}, extra = {}, ttl_ms = conf.ttl_ms, epoch = epoch, dirty = false, moved = false, counted = false,
  }
  for i = 1, #scope.windows do s.lists[i], s.total[i] = KEYS[k + 4 + i], 0 end
  return s, k + 5 + #scope.windows
end

local function read_fields(s, f)
  s.n, s.u = tonumber(f[2] or 0), tonumber(f[3] or 0)
  s.blocked_until, s.blocked_why = tonumber(f[4] or 0), f[5] or ''
  s.latency, s.throttles, s.throttled_at = tonumber(f[6] or 0), tonumber(f[7] or 0), tonumber(f[8] or 0)
  s.margin = tonumber(f[9] or (s.conf.margin and s.conf.margin.first) or 0)
  s.queue, s.kept_until = f[10] or '', tonumber(f[11] or 0)
  local at = #OWN_FIELDS
  breaker.load(s, f, at)
  at = at + #breaker.fields
  for i = 1, #s.conf.windows do
    s.total[i] = tonumber(f[at + 2 * i - 1] or 0)
    local text = f[at + 2 * i]
    if text and text ~= '' then s.extra[i] = read_extra(text) end
  end
end

-- The scope's state as of `now`, or nil when it contradicts itself (a key was evicted) and must be rebuilt.
local function load(conf, scope, k, epoch, now)
  local s, next_k = fresh(conf, scope, k, epoch)
  local wanted = {unpack(OWN_FIELDS)}
  for _, field in ipairs(breaker.fields) do wanted[#wanted + 1] = field end
  for _, field in ipairs(scope.fields) do wanted[#wanted + 1] = field end
  local f = redis.call('HMGET', s.hash, unpack(wanted))
  if not f[1] then
    if redis.call('EXISTS', s.slots, unpack(s.lists)) > 0 then return nil end
    s.is_new = true
  elseif f[1] ~= epoch then
    wipe(s)
    f, s.is_new = {}, true
  end
  read_fields(s, f)
  if s.n > 0 then
    if redis.call('ZCARD', s.slots) ~= s.n then return nil end
    end_overdue_slots(s, now)
  end
  for i = 1, #scope.windows do
    if not drop_expired(s, i, now) then return nil end
  end
  return s, next_k
end

-- All scopes of a call, or what to answer instead.
local function load_all(conf, run_id, least_epoch, nonce, now, is_answer)
  local epoch, stale = epoch_of(conf, run_id, least_epoch, is_answer)
  if not epoch then return nil, nil, stale or ask_to_rebuild(conf, nonce) end
  local scopes, k = {}, 4
  for i, scope in ipairs(conf.scopes) do
    scopes[i], k = load(conf, scope, k, epoch, now)
    if not scopes[i] then
      redis.call('DEL', KEYS[1])
      return nil, nil, ask_to_rebuild(conf, nonce)
    end
  end
  return scopes, epoch
end

-- All keys of the scope live on together; a new key is given its time when it is made.
local function keep(s, now)
  if s.kept_until - now > 500 * s.ttl_ms then return end
  s.kept_until, s.dirty = now + 1000 * s.ttl_ms, true
  for _, key in ipairs({KEYS[1], s.slots, s.probes, s.waiting, s.wants, unpack(s.lists)}) do
    redis.call('PEXPIRE', key, s.ttl_ms)
  end
end

-- Writes what changed: requests in flight, what was counted, or all of it. A cool-down or an open breaker outlives an idle scope.
local function save(s, now)
  if not (s.dirty or s.moved or s.counted) then return end
  keep(s, now)
  s.dirty = s.dirty or s.is_new
  local values = {'n', integer(s.n), 'u', integer(s.u)}
  if s.counted or s.is_new then
    for i = 1, #s.conf.windows do
      values[#values + 1] = s.conf.fields[2 * i - 1]
      values[#values + 1] = integer(s.total[i])
    end
  end
  if not s.dirty then return redis.call('HSET', s.hash, unpack(values)) end
  local state = {
    'epoch', s.epoch, 'blocked_until', integer(s.blocked_until), 'blocked_why', s.blocked_why,
    'latency', integer(s.latency), 'throttles', integer(s.throttles), 'throttled_at', integer(s.throttled_at),
    'queue', s.queue, 'kept_until', integer(s.kept_until),
  }
  if s.conf.margin then
    state[#state + 1] = 'margin'
    state[#state + 1] = integer(s.margin)
  end
  if s.conf.breaker then breaker.values(s, state) end
  for i in pairs(s.extra_dirty and s.extra or {}) do
    state[#state + 1] = s.conf.fields[2 * i]
    state[#state + 1] = write_extra(s.extra[i])
  end
  for _, value in ipairs(state) do values[#values + 1] = value end
  redis.call('HSET', s.hash, unpack(values))
  local lasting = math.max(0, s.blocked_until - now, math.min(breaker.lasting_until(s) - now, 2592000000000))
  redis.call('PEXPIRE', s.hash, integer(s.ttl_ms + lasting / 1000))
end

-- What is shown of a scope, and what of it must outlive Redis.
local function describe(s, now)
  local d = {
    n = s.n, latency = s.latency, breaker = breaker.describe(s, now), windows = {}, margin_us = s.margin,
    throttles = s.throttles, blocked_us = math.max(0, s.blocked_until - now), blocked_why = s.blocked_why,
  }
  for i, w in ipairs(s.conf.windows) do
    local first, last, x = nil, nil, s.extra[i]
    if s.total[i] > 0 then
      first = leaves_at(w, split_entry(redis.call('LINDEX', s.lists[i], 0))) - now
      last = leaves_at(w, split_entry(redis.call('LINDEX', s.lists[i], -1))) - now
    end
    d.windows[i] = {
      used = s.total[i], in_flight = w.weighted and s.u or s.n, first_us = first or 0, last_us = last or 0,
      foreign = foreign(s, i, now), limit = learned_limit(s, i, now),
      known = x and x.known or 0, base = x and x.base or 0, ago_us = x and x.at > 0 and now - x.at or -1, proofs = x and x.proofs or 0,
    }
  end
  return d
end
