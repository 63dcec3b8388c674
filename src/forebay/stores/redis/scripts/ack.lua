-- Finish entries, whoever holds them, be they leased or waiting; return how many were pending.
-- KEYS  stream, waiting, attempts, handled
-- ARGV  group, ms to remember or '', how many ids follow, these, then the positions
local stream, waiting, attempts, handled = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, remember, ids = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

if remember then
  local time = now()
  for i = 4, 3 + ids do
    redis.call('ZADD', handled, time + remember, ARGV[i])
  end
  forget(false, handled, time, 1000)
end
local first = 4 + ids
local done = 0
if redis.call('EXISTS', waiting) == 1 then
  done = redis.call('ZREM', waiting, unpack(ARGV, first))
end
if redis.call('EXISTS', attempts) == 1 then
  redis.call('HDEL', attempts, unpack(ARGV, first))
end
return done + redis.call('XACK', stream, group, unpack(ARGV, first))
