-- The line of those who were denied: a time for each to ask again, by class (1 goes first), then by when they came.
-- Kept as a sorted set (owner by the time to ask) and a hash (owner to "class:want:cost:since:due"); the scope holds the sums per
-- class. Who does not ask within the grace after its time is no longer waited for, but finds its place again when it comes back.
-- A place is good for what was wanted when it was taken (due), however much more its owner wants by now: then it is the others' turn.

local CLASSES, MOST_LAPSED = 3, 256

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

local function change_line(s, class, n, u)
  if n == 0 then return end
  local line, parts, sum = line_of(s), {}, 0
  line.n[class], line.u[class] = math.max(0, line.n[class] + n), math.max(0, line.u[class] + u)
  for c = 1, CLASSES do
    parts[c] = integer(line.n[c]) .. ':' .. integer(line.u[c])
    sum = sum + line.n[c]
  end
  s.queue, s.dirty = sum > 0 and table.concat(parts, ' ') or '', true
end

local function read_place(text)
  local class, want, cost, since, due = string.match(text, '^(%d+):(%d+):(%d+):(%d+):(%d+)$')
  local n, c = tonumber(want), tonumber(cost)
  return {class = tonumber(class), n = n, u = n * c, cost = c, since = tonumber(since), due = tonumber(due)}
end

local function write_place(s, owner, place)
  local numbers = {place.class, integer(place.n), integer(place.cost), integer(place.since), integer(place.due)}
  redis.call('HSET', s.wants, owner, table.concat(numbers, ':'))
end

-- The place of `owner`; one that lapsed wants nothing, but still says since when it waits.
local function place_of(s, owner)
  local text = owner ~= '' and redis.call('HGET', s.wants, owner)
  return text and read_place(text)
end

-- The places of many owners by their names, in few commands.
local function places_of(s, owners)
  local places = {}
  for first = 1, #owners, 1000 do
    local last = math.min(first + 999, #owners)
    for i, text in ipairs(redis.call('HMGET', s.wants, unpack(owners, first, last))) do
      places[owners[first + i - 1]] = text and read_place(text)
    end
  end
  return places
end

local function is_before(place, name, other, other_name)
  if place.class ~= other.class then return place.class < other.class end
  if place.since ~= other.since then return place.since < other.since end
  return name < other_name
end

local function leave_line(s, owner)
  local place = s.queue ~= '' and place_of(s, owner)
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
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', s.waiting, '-inf', integer(now - grace))) do
    local place = place_of(s, owner)
    redis.call('ZREM', s.waiting, owner)
    change_line(s, place.class, -place.n, -place.u)
    place.n = 0
    write_place(s, owner, place)
  end
  if redis.call('HLEN', s.wants) > redis.call('ZCARD', s.waiting) + MOST_LAPSED then
    for _, owner in ipairs(redis.call('HKEYS', s.wants)) do
      if not redis.call('ZSCORE', s.waiting, owner) then redis.call('HDEL', s.wants, owner) end
    end
  end
end

-- Requests and units of `owners` who go before `owner`.
local function sum_before(s, owner, class, owners, n, u)
  local line = line_of(s)
  if line.n[class] == 0 then return n, u end
  local own, places = place_of(s, owner), places_of(s, owners)
  for _, other in ipairs(owners) do
    local place = other ~= owner and places[other]
    if place and place.class == class and not (own and own.class == class and is_before(own, owner, place, other)) then
      n, u = n + place.n, u + place.u
    end
  end
  return n, u
end

-- What is kept for others now: those before in line whose time has come. Better classes hold all others back anyway.
local function kept_for_others(s, owner, class, now)
  if s.queue == '' then return 0, 0 end
  return sum_before(s, owner, class, redis.call('ZRANGEBYSCORE', s.waiting, '-inf', integer(now)), 0, 0)
end

-- All that is ahead of `owner` in line.
local function ahead_of(s, owner, class)
  if s.queue == '' then return 0, 0 end
  local own, line, n, u = place_of(s, owner), line_of(s), 0, 0
  for c = 1, class - 1 do n, u = n + line.n[c], u + line.u[c] end
  if own and own.class == class then return sum_before(s, owner, class, redis.call('ZRANGE', s.waiting, 0, -1), n, u) end
  return n + line.n[class], u + line.u[class]
end

-- Whether somebody of a better class waits whose time is near: what is free now would be missing then.
local function is_held_back(s, class, now, horizon)
  if s.queue == '' then return false end
  local line, n = line_of(s), 0
  for c = 1, class - 1 do n = n + line.n[c] end
  if n == 0 then return false end
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', s.waiting, '-inf', integer(now + horizon))) do
    local place = place_of(s, owner)
    if place and place.class < class then return true end
  end
  return false
end

-- A place in line, or the one `owner` has, until `wake` or soon after, never another's instant; the time it got.
local function join_line(s, owner, class, want, cost, wake, now)
  local own = place_of(s, owner)
  leave_line(s, owner)
  while redis.call('ZCOUNT', s.waiting, integer(wake), integer(wake)) > 0 do wake = wake + 1000 end
  redis.call('ZADD', s.waiting, integer(wake), owner)
  local due = own and own.due or want
  local n = math.min(want, due)
  write_place(s, owner, {class = class, n = n, cost = cost, since = own and own.since or now, due = due})
  redis.call('PEXPIRE', s.waiting, s.ttl_ms)
  redis.call('PEXPIRE', s.wants, s.ttl_ms)
  change_line(s, class, n, n * cost)
  return wake
end

-- `owner` got `n` of the `want` requests it asked for: its place shrinks by them, and is gone with the last it was good for.
local function serve_line(s, owner, n, want)
  local place = s.queue ~= '' and place_of(s, owner)
  if not place then return end
  if n >= want or n >= place.due then return leave_line(s, owner) end
  local left = math.min(math.max(0, place.n - n), want - n)
  change_line(s, place.class, left - place.n, (left - place.n) * place.cost)
  place.n, place.due = left, place.due - n
  write_place(s, owner, place)
end

-- The places in line in their order.
local function in_order(s)
  local places = {}
  if s.queue == '' then return places end
  local found, owners, wakes = redis.call('ZRANGE', s.waiting, 0, -1, 'WITHSCORES'), {}, {}
  for i = 1, #found, 2 do owners[#owners + 1], wakes[#wakes + 1] = found[i], tonumber(found[i + 1]) end
  local by_owner = places_of(s, owners)
  for i, owner in ipairs(owners) do
    local place = by_owner[owner]
    if place then
      place.owner, place.wake = owner, wakes[i]
      places[#places + 1] = place
    end
  end
  table.sort(places, function(a, b) return is_before(a, a.owner, b, b.owner) end)
  return places
end

-- `n` requests came free before their time: the first in line may ask now. Their names are returned.
local function call_forward(s, n, now)
  local called = {}
  for _, place in ipairs(in_order(s)) do
    if n <= 0 then break end
    n = n - place.n
    if place.wake > now then
      redis.call('ZADD', s.waiting, integer(now), place.owner)
      called[#called + 1] = place.owner
    end
  end
  return called
end

local function describe_line(s, now, most)
  local shown = {}
  for i, place in ipairs(in_order(s)) do
    if i > most then break end
    shown[i] = {
      owner = place.owner, class = place.class, want = place.n, wake_us = math.max(0, place.wake - now),
      waited_us = math.max(0, now - place.since),
    }
  end
  return shown
end
