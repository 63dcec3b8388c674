-- Let a group read on from behind a position; what it has begun behind that is unread again.
-- KEYS  stream, waiting, attempts
-- ARGV  group, position (in full, or $ for the end)
local moved = redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
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
for _, position in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if before(ARGV[2], position) then
    redis.call('HDEL', KEYS[3], position)
    redis.call('ZREM', KEYS[2], position)
  end
end
return moved
