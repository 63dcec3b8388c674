-- Make a group; 0 if it exists.
-- KEYS  stream, finished, waiting, attempts, progress
-- ARGV  group, start (in full, or $ for the end)
local stream, finished, waiting, attempts, progress = unpack(KEYS)
local group, start = ARGV[1], ARGV[2]
need({'EXISTS', stream, 'XINFO GROUPS', stream, 'XINFO STREAM', stream, 'XRANGE', stream, 'XGROUP CREATE', stream,
  'GET', finished, 'SET', finished, 'ZCARD', waiting, 'ZRANGE', waiting, 'ZREM', waiting,
  'HLEN', attempts, 'HDEL', attempts, 'HLEN', progress, 'HGET', progress, 'HSET', progress, 'HDEL', progress})
-- Checked first, because a full server refuses to create even a group that exists.
if last_delivered(stream, group) then
  return 0
end
-- If it is known, the group existed and was lost: others may have held entries before `start`.
local known = redis.call('GET', finished)
known = known and is_position(known) and known
if known and (start == '$' or before(known, start)) then
  start = known
end
start = not_beyond(stream, start)
-- Reads come first: a key of the wrong type raises before the first write.
redis.call('ZCARD', waiting)
redis.call('HLEN', attempts)
redis.call('HLEN', progress)
local made = redis.pcall('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
if made.err then
  return made
end
local place = last_delivered(stream, group)
drop_waiting_after(waiting, attempts, place)
redis.call('SET', finished, place)
-- The group does not miss entries that have left the stream by now.
recount_from_here(stream, waiting, progress, group)
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if known and not (first and not before(known, first[1])) then
  redis.call('HSET', progress, 'unknown', 1)
end
return 1
