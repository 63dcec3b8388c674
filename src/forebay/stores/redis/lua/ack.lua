-- Finish entries, leased by any consumer or waiting; return how many were pending.
-- KEYS  stream, waiting, attempts, progress, handled
-- ARGV  group, ms to remember the ids or '', number of ids, the ids, then the positions
local stream, waiting, attempts, progress, handled = unpack(KEYS)
local group, remember, ids = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
need({'XACK', stream, 'ZCARD', waiting, 'ZREM', waiting, 'HLEN', attempts, 'HDEL', attempts,
  'HLEN', progress, 'HGET', progress, 'HSET', progress})
if remember then
  need({'TIME', false, 'ZRANGEBYSCORE', handled, 'ZADD', handled})
end

-- Reads come first: a key of the wrong type raises before the first write.
local waits, was_tried = redis.call('ZCARD', waiting) > 0, redis.call('HLEN', attempts) > 0
redis.call('HLEN', progress)
local time = remember and wall()
if remember then
  expire_ids(false, handled, time)
end
local first = 4 + ids
-- Writes that free memory come first: a full server takes the others only after them.
local done = redis.call('XACK', stream, group, unpack(ARGV, first))
if waits then
  done = done + redis.call('ZREM', waiting, unpack(ARGV, first))
end
if was_tried then
  redis.call('HDEL', attempts, unpack(ARGV, first))
end
if done > 0 then
  count_up(progress, 'finished', done)
end
if remember then
  for i = 4, 3 + ids do
    redis.call('ZADD', handled, time + remember, ARGV[i])
  end
end
return done
