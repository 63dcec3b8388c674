-- Let a group read on from behind a position; what it has begun behind that is unread again.
-- KEYS  stream, waiting, attempts, finished
-- ARGV  group, position (in full, or $ for the end)
local moved = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
if not moved.err then
  redis.call('DEL', KEYS[4])
  if ARGV[2] ~= '$' then
    redis.pcall('SET', KEYS[4], ARGV[2])
  end
end
if moved.err or ARGV[2] == '$' then
  return moved
end
while true do
  local begun = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[2], '+', 500)
  local positions = {}
  for i, entry in ipairs(begun) do
    positions[i] = entry[1]
  end
  if #positions == 0 then
    break
  end
  redis.call('HDEL', KEYS[3], unpack(positions))
  redis.call('XACK', KEYS[1], ARGV[1], unpack(positions))
end
wait_no_more(KEYS[2], KEYS[3], ARGV[2])
return moved
