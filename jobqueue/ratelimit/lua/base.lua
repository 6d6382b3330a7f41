-- What every script needs: the clock, and reading and writing numbers.
-- Times are whole microseconds; Lua's doubles hold them exactly until the year 2255.

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

local function integer(x) return string.format('%.0f', x) end

local function split_entry(entry)
  local colon = string.find(entry, ':', 1, true)
  return tonumber(string.sub(entry, 1, colon - 1)), tonumber(string.sub(entry, colon + 1))
end
