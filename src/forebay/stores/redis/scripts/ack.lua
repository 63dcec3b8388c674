-- Finish entries, whoever holds them, be they leased or waiting; return how many were pending.
-- KEYS  stream, waiting, attempts, progress, handled
-- ARGV  group, ms to remember or '', how many ids follow, these, then the positions
local stream, waiting, attempts, progress, handled = unpack(KEYS)
local group, remember, ids = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
need({'XACK', stream, 'ZCARD', waiting, 'ZREM', waiting, 'HLEN', attempts, 'HDEL', attempts,
  'HLEN', progress, 'HGET', progress, 'HSET', progress})
if remember then
  need({'TIME', false, 'ZRANGEBYSCORE', handled, 'ZADD', handled})
end

-- Reads come first: a key of the wrong type must be met before anything is written.
local waits, was_tried = redis.call('ZCARD', waiting) > 0, redis.call('HLEN', attempts) > 0
redis.call('HLEN', progress)
local time = remember and wall()
if remember then
  expire_ids(false, handled, time, 1000)
end
local first = 4 + ids
-- What frees memory goes before what needs it: a server without memory takes the second only after the first.
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
