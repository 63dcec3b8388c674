-- The number of entries that left the stream before the group read them, each counted once; false if it is unknown.
-- KEYS  stream, waiting, progress
-- ARGV  group
local stream, waiting, progress = KEYS[1], KEYS[2], KEYS[3]
need({'EXISTS', stream, 'XINFO STREAM', stream, 'XINFO GROUPS', stream, 'XRANGE', stream, 'XACK', stream,
  'ZCARD', waiting, 'HGET', progress, 'HSET', progress, 'HDEL', progress})
local group = group_info(stream, ARGV[1])
if not group then
  return false
end
begin_without_memory(stream, ARGV[1])
local trimmed = count_trimmed_unread(stream, waiting, progress, named(redis.call('XINFO', 'STREAM', stream)), group)
if redis.call('HDEL', progress, 'unknown') == 1 then
  return false
end
return trimmed or false
