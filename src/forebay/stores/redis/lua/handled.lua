-- Which of these ids the group remembers as handled: a 1 or 0 for each.
-- KEYS  handled
-- ARGV  ids
need({'ZSCORE', KEYS[1], 'TIME', false})
local time = wall()
local known = {}
for i, id in ipairs(ARGV) do
  local ends = redis.call('ZSCORE', KEYS[1], id)
  known[i] = ends and tonumber(ends) > time and 1 or 0
end
return known
