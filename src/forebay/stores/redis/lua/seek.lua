-- Move a group to a position; its pending entries after that are unread again.
-- KEYS  stream, waiting, attempts, finished, progress
-- ARGV  group, position (in full, or $ for the end)
local stream, waiting, attempts, finished, progress = unpack(KEYS)
local group, place = ARGV[1], ARGV[2]
local PAGE = 500
need({'XGROUP SETID', stream, 'EXISTS', stream, 'XINFO GROUPS', stream, 'XINFO STREAM', stream, 'XRANGE', stream,
  'XPENDING', stream, 'XACK', stream, 'ZCARD', waiting, 'ZRANGE', waiting, 'ZREM', waiting, 'HLEN', attempts, 'HDEL', attempts,
  'DEL', finished, 'SET', finished, 'HLEN', progress, 'HGET', progress, 'HSET', progress, 'HDEL', progress})
-- Reads come first: a key of the wrong type raises before the first write.
redis.call('ZCARD', waiting)
redis.call('HLEN', attempts)
redis.call('HLEN', progress)
begin_without_memory(stream, group)
place = not_beyond(stream, place)
local moved = redis.pcall('XGROUP', 'SETID', stream, group, place)
if moved.err then
  return moved
end
if place == '$' then
  redis.call('DEL', finished)
else
  redis.call('SET', finished, place)
  while true do
    local positions = {}
    for i, entry in ipairs(redis.call('XPENDING', stream, group, '(' .. place, '+', PAGE)) do
      positions[i] = entry[1]
    end
    if #positions == 0 then
      break
    end
    redis.call('HDEL', attempts, unpack(positions))
    redis.call('XACK', stream, group, unpack(positions))
  end
  drop_waiting_after(waiting, attempts, place)
end
recount_from_here(stream, waiting, progress, group)
return moved
