-- The breaker of jobqueue/model/breaker.py, executed on the shared state of a scope: its transitions, word for word.
-- Of a scope `s` it reads conf.breaker (false: there is none), n (requests in flight), probes (a key: slot id by the end of its
-- lease) and ttl_ms; it keeps breaker (the status) and its other fields there, and sets dirty and breaker_changed.

local breaker = {fields = {'breaker', 'open_until', 'opens', 'successes', 'closed_at', 'breaker_calls'}}

do
  local BUCKETS, SLOW_START_STEPS, LOOK_AGAIN_US = 10, 5, 1000000

  local function touch(s) s.dirty, s.breaker_dirty = true, true end

  local function become(s, status, opens)
    s.breaker, s.opens, s.open_until, s.successes, s.closed_at = status, opens, 0, 0, 0
    s.call_text, s.call_window = '', nil
    redis.call('DEL', s.probes)
    touch(s)
  end

  local function open(s, now, jitter)
    local c = s.conf.breaker
    become(s, 'open', s.opens + 1)
    local base = math.min(c.open_max_us, c.open_us * 2 ^ math.min(s.opens - 1, 20))
    s.open_until = now + base + math.floor(base * c.jitter * jitter / 1000000)
    s.breaker_changed = true
  end

  local function close(s, now)
    become(s, 'closed', 0)
    s.closed_at, s.breaker_changed = now, true
  end

  local function slow_start_left(s, now)
    if s.breaker ~= 'closed' or s.closed_at == 0 then return 0 end
    -- A clock that was set back begins it again at most.
    return math.max(0, s.conf.breaker.slow_start_us - math.max(0, now - s.closed_at))
  end

  -- The calls looked back on, read when first needed. As text: "t<bucket us>" and buckets "number:calls:failures:slow", oldest
  -- first; or "c<size> failures slow" and the ring, a digit a call: 0, plus 1 if it failed, plus 2 if it was slow. A text of
  -- another kind or length was written under another configuration, and nothing of it counts.
  local function window(s)
    if s.call_window then return s.call_window end
    local c, w = s.conf.breaker, {failures = 0, slow = 0}
    w.head = c.window_calls > 0 and 'c' .. integer(c.window_calls) or 't' .. integer(c.bucket_us)
    local head, rest = string.match(s.call_text, '^(%S+) (.*)$')
    if c.window_calls > 0 then
      w.ring = ''
      if head == w.head then
        local failures, slow, ring = string.match(rest, '^(%d+) (%d+) (%d+)$')
        w.failures, w.slow, w.ring = tonumber(failures), tonumber(slow), ring
      end
    else
      w.buckets = {}
      if head == w.head then
        for number, calls, failures, slow in string.gmatch(rest, '(%d+):(%d+):(%d+):(%d+)') do
          w.buckets[#w.buckets + 1] = {tonumber(number), tonumber(calls), tonumber(failures), tonumber(slow)}
        end
      end
    end
    s.call_window = w
    return w
  end

  local function text_of(w)
    if w.ring then return w.head .. ' ' .. integer(w.failures) .. ' ' .. integer(w.slow) .. ' ' .. w.ring end
    local parts = {w.head}
    for i, b in ipairs(w.buckets) do
      parts[i + 1] = integer(b[1]) .. ':' .. integer(b[2]) .. ':' .. integer(b[3]) .. ':' .. integer(b[4])
    end
    return table.concat(parts, ' ')
  end

  local function drop_old_buckets(s, w, now)
    local oldest = math.floor(now / s.conf.breaker.bucket_us) - BUCKETS + 1
    while w.buckets[1] and w.buckets[1][1] < oldest do table.remove(w.buckets, 1) end
  end

  -- How many calls the window holds, how many of them failed, how many were slow.
  local function counts(s, now)
    local w = window(s)
    if w.ring then return #w.ring, w.failures, w.slow end
    drop_old_buckets(s, w, now)
    local calls, failures, slow = 0, 0, 0
    for _, b in ipairs(w.buckets) do calls, failures, slow = calls + b[2], failures + b[3], slow + b[4] end
    return calls, failures, slow
  end

  local function count_in_ring(w, size, failed, slow)
    w.ring = w.ring .. (failed + 2 * slow)
    w.failures, w.slow = w.failures + failed, w.slow + slow
    if #w.ring > size then
      local oldest = tonumber(string.sub(w.ring, 1, 1))
      w.ring = string.sub(w.ring, 2)
      w.failures, w.slow = w.failures - oldest % 2, w.slow - math.floor(oldest / 2)
    end
  end

  local function count(s, now, failed, slow)
    local w = window(s)
    touch(s)
    if w.ring then return count_in_ring(w, s.conf.breaker.window_calls, failed, slow) end
    drop_old_buckets(s, w, now)
    local number = math.floor(now / s.conf.breaker.bucket_us)
    local last = w.buckets[#w.buckets]
    -- A clock that was set back goes on in the last bucket.
    if not last or last[1] < number then
      last = {number, 0, 0, 0}
      w.buckets[#w.buckets + 1] = last
    end
    last[2], last[3], last[4] = last[2] + 1, last[3] + failed, last[4] + slow
  end

  local function has_tripped(s, now)
    local c, calls, failures, slow = s.conf.breaker, counts(s, now)
    if calls < c.minimum_calls then return false end
    if failures * 1000 >= c.failure_permille * calls then return true end
    return c.slow_call_us > 0 and slow * 1000 >= c.slow_permille * calls
  end

  local function record_probe(s, slot, is_good, now, jitter)
    redis.call('ZREMRANGEBYSCORE', s.probes, '-inf', now)
    if redis.call('ZREM', s.probes, slot) == 0 or is_good == nil then return end
    if not is_good then return open(s, now, jitter) end
    if s.successes + 1 >= s.conf.breaker.probes then return close(s, now) end
    s.successes = s.successes + 1
    touch(s)
  end

  local function decide_closed(s, now)
    if slow_start_left(s, now) == 0 then return nil, 0 end
    local c = s.conf.breaker
    local step = math.floor(math.max(0, now - s.closed_at) * SLOW_START_STEPS / c.slow_start_us)
    local step_ends = s.closed_at + math.ceil((step + 1) * c.slow_start_us / SLOW_START_STEPS)
    return math.max(0, c.probes * 2 ^ step - s.n), math.min(step_ends, now + LOOK_AGAIN_US)
  end

  local function decide_half_open(s, now)
    local c = s.conf.breaker
    redis.call('ZREMRANGEBYSCORE', s.probes, '-inf', now)
    local first = redis.call('ZRANGE', s.probes, 0, 0, 'WITHSCORES')
    local lifts_at = math.min(tonumber(first[2]) or math.huge, now + LOOK_AGAIN_US)
    -- One at least is missing, else it would be closed; a configuration with fewer probes must not lock it.
    local permits = math.max(1, c.probes - s.successes) - redis.call('ZCARD', s.probes)
    return math.max(0, permits), lifts_at
  end

  -- Takes over the fields read from the hash: f[at + 1] and on, false where there is none.
  function breaker.load(s, f, at)
    s.breaker, s.open_until, s.opens = f[at + 1] or 'closed', tonumber(f[at + 2] or 0), tonumber(f[at + 3] or 0)
    s.successes, s.closed_at, s.call_text = tonumber(f[at + 4] or 0), tonumber(f[at + 5] or 0), f[at + 6] or ''
  end

  -- Appends field, value, … to `out` for HSET; nothing when nothing changed.
  function breaker.values(s, out)
    if not s.breaker_dirty then return end
    local values = {
      s.breaker, integer(s.open_until), integer(s.opens), integer(s.successes), integer(s.closed_at),
      s.call_window and text_of(s.call_window) or s.call_text,
    }
    for i, field in ipairs(breaker.fields) do
      out[#out + 1] = field
      out[#out + 1] = values[i]
    end
  end

  -- Until when the state must outlive an idle scope; without end when a person has to lift it.
  function breaker.lasting_until(s)
    if not s.conf.breaker then return 0 end
    if s.breaker == 'forced_open' or s.breaker == 'disabled' then return math.huge end
    if s.breaker == 'closed' and s.closed_at > 0 then return s.closed_at + s.conf.breaker.slow_start_us end
    return s.open_until
  end

  -- How many requests may pass now (nil: any number), and when to ask again if none may.
  function breaker.decide(s, now)
    local c = s.conf.breaker
    if not c or s.breaker == 'disabled' then return nil, 0 end
    if s.breaker == 'closed' then return decide_closed(s, now) end
    if s.breaker == 'half_open' then return decide_half_open(s, now) end
    if s.breaker == 'forced_open' then return 0, now + LOOK_AGAIN_US end
    if now < s.open_until then return 0, s.open_until end
    return c.probes, 0
  end

  -- Lets `slots` through, within the permits just decided; each is a probe until `deadline`, unless it is closed.
  function breaker.lease(s, slots, deadline, now)
    if not s.conf.breaker then return end
    if s.breaker == 'open' then become(s, 'half_open', s.opens) end
    if s.breaker ~= 'half_open' then return end
    for _, slot in ipairs(slots) do redis.call('ZADD', s.probes, deadline, slot) end
    redis.call('PEXPIRE', s.probes, s.ttl_ms)
  end

  -- `outcome` is 1 for a success, 0 for a failure, nil when the answer says nothing about the provider's health; `latency_us` is 0
  -- when unknown; `jitter` is per mille of the largest jitter.
  function breaker.record(s, slot, outcome, latency_us, now, jitter)
    local c = s.conf.breaker
    if not c then return end
    local is_slow = c.slow_call_us > 0 and latency_us >= c.slow_call_us
    if s.breaker == 'half_open' then
      local is_good = nil
      if outcome then is_good = outcome == 1 and not is_slow end
      return record_probe(s, slot, is_good, now, jitter)
    end
    if s.breaker ~= 'closed' or not outcome then return end
    count(s, now, 1 - outcome, is_slow and 1 or 0)
    if has_tripped(s, now) then open(s, now, jitter) end
  end

  -- By command: 'forced_open', 'disabled', or 'closed'; fresh, whatever it was.
  function breaker.force(s, status, now)
    become(s, status, 0)
    s.breaker_changed = true
  end

  function breaker.describe(s, now)
    if not s.conf.breaker then return {status = 'closed', opens = 0, open_us = 0, calls = 0, failures = 0, slow = 0, slow_start_us = 0} end
    local calls, failures, slow = counts(s, now)
    return {
      status = s.breaker, opens = s.opens, open_us = math.max(0, s.open_until - now), calls = calls, failures = failures,
      slow = slow, slow_start_us = slow_start_left(s, now),
    }
  end

  -- What was kept outside of Redis: breaker (the status), opens, open_us. Probes and a slow start under way are forgotten.
  function breaker.restore(s, state, now)
    become(s, state.breaker, state.opens)
    if state.open_us > 0 then s.open_until = now + state.open_us end
  end
end
