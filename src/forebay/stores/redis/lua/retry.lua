-- Count a failure, and let the entry wait, or keep its lease; 0 if the consumer does not hold the lease.
-- KEYS  stream, waiting, attempts
-- ARGV  group, consumer, position, number of the lease, failures before this one, delay in ms, '1' to keep the lease,
--       the failure or ''
local stream, waiting, attempts = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, position, number = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local failures, delay, keep = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
need({'XPENDING', stream, 'XACK', stream, 'ZCARD', waiting, 'HGET', attempts, 'HSET', attempts, 'TIME', false,
  keep and 'XCLAIM' or 'XACK', stream, 'ZADD', waiting})

if not holds(stream, group, consumer, position, number) then
  return 0
end
redis.call('ZCARD', waiting)
local _, counted, lease_offset, last_failure = history_of(attempts, position)
local attempt = attempt_of(number, lease_offset)
if counted > failures then
  -- A kept retry is repeated, because its answer was lost: its failure is counted already.
  failures = counted
else
  failures, last_failure = failures + 1, ARGV[8]
  attempt = keep and attempt + 1 or attempt
end
begin_without_memory(stream, group)
note_history(attempts, position, attempt, failures, number - attempt, last_failure)
if keep then
  redis.call('XCLAIM', stream, group, consumer, 0, position, 'JUSTID')
else
  redis.call('ZADD', waiting, now() + delay, position)
  redis.call('XACK', stream, group, position)
end
return 1
