-- One window of one scope: what was answered and still counts, as a list of "time:weight", oldest first, with its total.
-- An entry leaves a rolling window one length after its time, a calendar one at the end of its period.

local function leaves_at(w, time)
  if w.ends then
    for _, boundary in ipairs(w.ends) do
      if time + w.guard < boundary then return boundary + w.guard end
    end
  end
  return time + w.us
end

-- The same, `rounds` windows or periods later.
local function leaves_rounds_later(w, leaves, rounds)
  local length = w.us
  if w.ends then
    length = w.ends[#w.ends] - w.ends[#w.ends - 1]
    while rounds > 0 and leaves + w.guard < w.ends[#w.ends] do leaves, rounds = leaves_at(w, leaves), rounds - 1 end
  end
  return leaves + rounds * length
end

-- So many entries of a bucketed window keep their own microsecond: only what comes in a crowd has to share.
local MOST_EXACT = 8

-- Books `weight` as answered at `at`. Answers may come out of order; the list stays sorted.
local function book_window(s, i, at, weight)
  local w, list, time = s.conf.windows[i], s.lists[i], at
  if w.quantum and redis.call('LLEN', list) >= MOST_EXACT then time = math.ceil(at / w.quantum) * w.quantum end
  local last = s.total[i] > 0 and redis.call('LINDEX', list, -1)
  s.total[i] = s.total[i] + weight
  s.counted = true
  if not last then
    redis.call('RPUSH', list, integer(time) .. ':' .. integer(weight))
    redis.call('PEXPIRE', list, s.ttl_ms)
  else
    local last_time, last_weight = split_entry(last)
    local is_same = last_time == time or (w.quantum and last_time > time)
    if is_same or (w.ends and leaves_at(w, last_time) == leaves_at(w, time)) then
      redis.call('LSET', list, -1, integer(last_time) .. ':' .. integer(last_weight + weight))
    elseif last_time < time then
      redis.call('RPUSH', list, integer(time) .. ':' .. integer(weight))
    else
      local entry, place = integer(time) .. ':' .. integer(weight), -1
      while last_time > time do
        place = place - 1
        local before = redis.call('LINDEX', list, place)
        if not before then break end
        last_time = split_entry(before)
      end
      if last_time > time then
        redis.call('LPUSH', list, entry)
      else
        redis.call('LINSERT', list, 'AFTER', redis.call('LINDEX', list, place), entry)
      end
    end
  end
end

-- Books `n` requests of `u` units as answered at `at`.
local function book(s, at, n, u)
  for i, w in ipairs(s.conf.windows) do
    local weight = w.weighted and u or n
    if weight > 0 then book_window(s, i, at, weight) end
  end
end

-- Drops what has left the window; false when list and total disagree.
local function drop_expired(s, i, now)
  local list, w = s.lists[i], s.conf.windows[i]
  while s.total[i] > 0 do
    local head = redis.call('LINDEX', list, 0)
    if not head then return false end
    local time, weight = split_entry(head)
    if leaves_at(w, time) >= now then return true end
    redis.call('LPOP', list)
    s.total[i] = s.total[i] - weight
    s.counted = true
  end
  return true
end

-- What others take of the window, as far as the provider's answers told.
local function foreign(s, i, now)
  local x = s.extra[i]
  return x and now < x.foreign_until and x.foreign or 0
end

-- A sixteenth less than was seen to pass: it passed while others were still on their way. More only once that was tried.
local function sure_of(x)
  return math.max(x.base, x.proofs == 0 and x.known - math.floor(x.known / 16) or x.known)
end

-- The limit as learned from throttles; see jobqueue/model/learned.py, which computes the same.
local function learned_limit(s, i, now)
  local w, x = s.conf.windows[i], s.extra[i]
  if not x or x.at == 0 then return w.limit end
  local quiet = now - x.at - w.us
  if quiet >= 5 * w.us then return w.limit end
  local sure, more = sure_of(x), 0
  if quiet >= 0 then
    local t = math.floor(math.max(0, quiet - w.us) * 100 / w.us)
    local cubic = math.floor(math.min(1000000, math.max(10, sure)) * 4 * t * t * t / 10000000)
    local doubled = x.proofs < 5 and 1 or 2 ^ math.min(20, x.proofs - 4)
    more = math.max(1, cubic, math.min(doubled, math.max(4, math.floor(sure / 16))))
  end
  return math.min(w.limit, math.max(s.conf.floor, sure + more))
end

-- When more than what was learned may be tried: a window after the throttle, and after each answer to what is being tried.
local function tried_at(s, i, now)
  local x = s.extra[i]
  if not x or x.at == 0 or learned_limit(s, i, now) >= s.conf.windows[i].limit then return math.huge end
  local begins = x.at + s.conf.windows[i].us
  if now < begins then return begins end
  return s.n > 0 and now + math.max(10000, s.latency) or math.huge
end

-- When `need` weight will have left the window: exact for what was answered, a lower bound for what is in flight. More
-- than it holds leaves in later rounds.
local function freed_at(s, i, need, now)
  local w, rounds = s.conf.windows[i], 0
  local other = foreign(s, i, now)
  local limit = math.max(1, learned_limit(s, i, now))
  local held = s.total[i] + other
  if need > held then
    rounds = math.ceil((need - held) / limit)
    need = need - rounds * limit
  end
  if need <= 0 then return leaves_rounds_later(w, now, rounds) + 1 end
  local start, sum = 0, 0
  while true do
    local entries = redis.call('LRANGE', s.lists[i], start, start + 63)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      local time, weight = split_entry(entry)
      local leaves = leaves_at(w, time)
      if other > 0 and s.extra[i].foreign_until <= leaves then
        sum, other = sum + other, 0
        if sum >= need then return leaves_rounds_later(w, s.extra[i].foreign_until, rounds) + 1 end
      end
      sum = sum + weight
      if sum >= need then return leaves_rounds_later(w, leaves, rounds) + 1 end
    end
    start = start + 64
  end
  if other > 0 and sum + other >= need then return leaves_rounds_later(w, s.extra[i].foreign_until, rounds) + 1 end
  return leaves_rounds_later(w, now, rounds + 1) + 1
end
