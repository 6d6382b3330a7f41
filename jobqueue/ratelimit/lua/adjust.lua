-- Changes by hand what the limiter keeps of the innermost scope, or takes an owner out of the lines of all of them.
-- ARGV: configuration, run id, least epoch, what (forget_learned, lift_cooldown, forced_open, disabled, closed, leave), nonce,
-- now, who leaves.
-- Answers {1, JSON of what must outlive Redis, JSON of whose turn came early} | {-1, ms} | {-2, 0}.

local conf, what, now = cjson.decode(ARGV[1]), ARGV[4], clock(ARGV[6])
local scopes, _, otherwise = load_all(conf, ARGV[2], ARGV[3], ARGV[5], now)
if not scopes then return otherwise end

if what == 'leave' then
  local called = {}
  for _, s in ipairs(scopes) do
    local place = s.queue ~= '' and place_of(s, ARGV[7])
    if place then
      leave_line(s, ARGV[7])
      for _, owner in ipairs(call_forward(s, place.n, now)) do called[#called + 1] = owner end
    end
    save(s, now)
  end
  return {#called, '[]', #called > 0 and cjson.encode(called) or '[]'}
end

local index = #scopes
local s = scopes[index]
s.dirty = true
if what == 'forget_learned' then
  for i = 1, #s.conf.windows do
    local x = extra_of(s, i)
    x.foreign, x.foreign_until, x.known, x.base, x.at, x.proofs = 0, 0, 0, 0, 0, 0
  end
  s.throttles, s.throttled_at, s.margin = 0, 0, s.conf.margin and s.conf.margin.first or 0
elseif what == 'lift_cooldown' then
  s.blocked_until, s.blocked_why, s.throttles = 0, '', 0
else
  breaker.force(s, what, now)
end
local called = call_forward(s, math.huge, now)
for _, scope in ipairs(scopes) do save(scope, now) end
local d = describe(s, now)
d.scope, d.paused, d.breaker_changed, d.learned_changed = index, what == 'lift_cooldown', s.breaker_changed or false, true
return {1, cjson.encode({d}), #called > 0 and cjson.encode(called) or '[]'}
