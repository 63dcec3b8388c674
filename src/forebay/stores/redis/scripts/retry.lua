-- Count a failure, and let the entry wait; 0 where the consumer does not hold it.
-- KEYS  stream, waiting, attempts
-- ARGV  group, consumer, position, delay in ms, '1' to keep the lease, attempt, the failure or ''
local stream, waiting, attempts = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, position = ARGV[1], ARGV[2], ARGV[3]
need({'XPENDING', stream, 'XACK', stream, 'ZCARD', waiting, 'HGET', attempts, 'HSET', attempts, 'TIME', false,
  ARGV[5] == '1' and 'XCLAIM' or 'XACK', stream, 'ZADD', waiting})

local count = held(stream, group, consumer, position)
-- The attempt too: a repetition, after its answer was lost, must not count the failure twice.
if count ~= tonumber(ARGV[6]) then
  return 0
end
redis.call('ZCARD', waiting)
local _, failures = attempts_of(attempts, position)
begin_without_memory(stream, group)
note(attempts, position, count, failures + 1, ARGV[7])
if ARGV[5] == '1' then
  redis.call('XCLAIM', stream, group, consumer, 0, position, 'RETRYCOUNT', count + 1, 'JUSTID')
else
  redis.call('ZADD', waiting, now() + ARGV[4], position)
  redis.call('XACK', stream, group, position)
end
return 1
