-- Gives up the place of an owner in line, in every scope: it wants nothing any more.
-- ARGV: configuration, run id, least epoch, owner, nonce, now.
-- Answers {scopes left, '[]', JSON of whose turn came early by it} | {-1, ms until the rebuild lease ends} | {-2, 0}.

local conf, owner, now = cjson.decode(ARGV[1]), ARGV[4], clock(ARGV[6])
local scopes, _, otherwise = load_all(conf, ARGV[2], ARGV[3], ARGV[5], now)
if not scopes then return otherwise end

local left, called = 0, {}
for _, s in ipairs(scopes) do
  local place = s.queue ~= '' and place_of(s, owner)
  if place then
    leave_line(s, owner)
    for _, next_owner in ipairs(call_forward(s, place.n, now)) do called[#called + 1] = next_owner end
    left = left + 1
  end
  save(s, now)
end
return {left, '[]', #called > 0 and cjson.encode(called) or '[]'}
