-- Gives up the place of an owner in line, in every scope.
-- ARGV: configuration, run id, least epoch, owner, nonce, now. Answers {1} | {-1, ms} | {-2, 0}.

local conf, now = cjson.decode(ARGV[1]), clock(ARGV[6])
local scopes, _, otherwise = load_all(conf, ARGV[2], ARGV[3], ARGV[5], now)
if not scopes then return otherwise end
for _, s in ipairs(scopes) do
  leave_line(s, ARGV[4])
  save(s, now)
end
return {1}
