-- The line of those who were denied: a time for each to ask again, by class (1 goes first), then by when they came.
-- Kept as a sorted set (owner by time) and a hash (owner to "class:want:cost:since"); the scope holds the sums per class.
-- Who does not ask within the grace after its time loses its place, so that nobody waits for the dead.

local CLASSES = 3

local function line_of(s)
  if not s.line then
    s.line = {n = {0, 0, 0}, u = {0, 0, 0}}
    local class = 0
    for n, u in string.gmatch(s.queue, '(%d+):(%d+)') do
      class = class + 1
      s.line.n[class], s.line.u[class] = tonumber(n), tonumber(u)
    end
  end
  return s.line
end

local function read_want(text)
  local class, want, cost, since = string.match(text, '^(%d+):(%d+):(%d+):(%d+)$')
  return {class = tonumber(class), n = tonumber(want), u = tonumber(want) * tonumber(cost), cost = tonumber(cost), since = since}
end

local function change_line(s, class, n, u)
  local line, parts, sum = line_of(s), {}, 0
  line.n[class], line.u[class] = math.max(0, line.n[class] + n), math.max(0, line.u[class] + u)
  for c = 1, CLASSES do
    parts[c] = integer(line.n[c]) .. ':' .. integer(line.u[c])
    sum = sum + line.n[c]
  end
  s.queue, s.dirty = sum > 0 and table.concat(parts, ' ') or '', true
end

local function place_of(s, owner)
  local text = s.queue ~= '' and owner ~= '' and redis.call('HGET', s.wants, owner)
  return text and read_want(text)
end

local function leave_line(s, owner)
  local place = place_of(s, owner)
  if not place then return end
  redis.call('ZREM', s.waiting, owner)
  redis.call('HDEL', s.wants, owner)
  change_line(s, place.class, -place.n, -place.u)
end

local function drop_absent(s, now, grace)
  if s.queue == '' then return end
  if redis.call('EXISTS', s.waiting, s.wants) < 2 then
    redis.call('DEL', s.waiting, s.wants)
    s.queue, s.line, s.dirty = '', nil, true
    return
  end
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', s.waiting, '-inf', now - grace)) do leave_line(s, owner) end
end

-- Requests and units of those with a better right: all of a better class, and of the same one who came before `until_us`.
local function claimed_by_others(s, owner, class, until_us)
  if s.queue == '' then return 0, 0 end
  local line, n, u = line_of(s), 0, 0
  for c = 1, class - 1 do n, u = n + line.n[c], u + line.u[c] end
  if line.n[class] == 0 then return n, u end
  if until_us == math.huge then
    local own = place_of(s, owner)
    n, u = n + line.n[class], u + line.u[class]
    if own and own.class <= class then n, u = n - own.n, u - own.u end
    return n, u
  end
  local others = redis.call('ZRANGEBYSCORE', s.waiting, '-inf', integer(until_us))
  for _, other in ipairs(others) do
    local place = other ~= owner and place_of(s, other)
    if place and place.class == class then n, u = n + place.n, u + place.u end
  end
  return n, u
end

-- What is ahead of `owner` in line: all of a better class, and of the same one those whose time comes before its own.
local function ahead_of(s, owner, class)
  local own = s.queue ~= '' and redis.call('ZSCORE', s.waiting, owner)
  return claimed_by_others(s, owner, class, own and tonumber(own) - 1 or math.huge)
end

-- A place in line at `wake` or soon after, never at another's instant; the time it got.
local function join_line(s, owner, class, want, cost, wake, now)
  local own = place_of(s, owner)
  if own then leave_line(s, owner) end
  while redis.call('ZCOUNT', s.waiting, integer(wake), integer(wake)) > 0 do wake = wake + 1000 end
  redis.call('ZADD', s.waiting, integer(wake), owner)
  redis.call('HSET', s.wants, owner, table.concat({class, integer(want), integer(cost), own and own.since or integer(now)}, ':'))
  redis.call('PEXPIRE', s.waiting, s.ttl_ms)
  redis.call('PEXPIRE', s.wants, s.ttl_ms)
  change_line(s, class, want, want * cost)
  return wake
end

-- `owner` got `n` requests: its place shrinks by them, and is gone when it has all it wanted.
local function serve_line(s, owner, n)
  local place = place_of(s, owner)
  if not place then return end
  if n >= place.n then return leave_line(s, owner) end
  redis.call('HSET', s.wants, owner, table.concat({place.class, integer(place.n - n), integer(place.cost), place.since}, ':'))
  change_line(s, place.class, -n, -n * place.cost)
end

-- `n` requests came free before their time: the first in line may ask now. Their names are returned.
local function call_forward(s, n, now)
  local called = {}
  if s.queue == '' then return called end
  local owners = redis.call('ZRANGE', s.waiting, 0, 255)
  for class = 1, CLASSES do
    for _, owner in ipairs(owners) do
      local place = n > 0 and place_of(s, owner)
      if place and place.class == class then
        n = n - place.n
        if tonumber(redis.call('ZSCORE', s.waiting, owner)) > now then
          redis.call('ZADD', s.waiting, integer(now), owner)
          called[#called + 1] = owner
        end
      end
    end
  end
  return called
end

local function describe_line(s, now, most)
  local shown = {}
  if s.queue == '' then return shown end
  local owners = redis.call('ZRANGE', s.waiting, 0, most - 1, 'WITHSCORES')
  for i = 1, #owners, 2 do
    local place = place_of(s, owners[i])
    if place then
      shown[#shown + 1] = {
        owner = owners[i], class = place.class, want = place.n, wake_us = math.max(0, tonumber(owners[i + 1]) - now),
        waited_us = now - tonumber(place.since),
      }
    end
  end
  return shown
end
