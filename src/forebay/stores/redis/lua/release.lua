-- Let entries wait, due at once, without counting their last lease as an attempt; return how many were held.
-- KEYS  stream, waiting, attempts
-- ARGV  group, consumer, then for each entry: position, number of the lease
local stream, waiting, attempts = KEYS[1], KEYS[2], KEYS[3]
local group, consumer = ARGV[1], ARGV[2]
need({'XPENDING', stream, 'XACK', stream, 'ZCARD', waiting, 'ZADD', waiting, 'HGET', attempts, 'HSET', attempts})
local time = now()
redis.call('ZCARD', waiting)
if not is_group(stream, group) then
  return 0
end
begin_without_memory(stream, group)
local released = 0
for i = 3, #ARGV, 2 do
  local position, number = ARGV[i], ARGV[i + 1]
  if holds(stream, group, consumer, position, number) then
    local _, failures, lease_offset, last_failure = history_of(attempts, position)
    local attempt = attempt_of(number, lease_offset) - 1
    redis.call('ZADD', waiting, time, position)
    note_history(attempts, position, attempt, failures, number - attempt, last_failure)
    redis.call('XACK', stream, group, position)
    released = released + 1
  end
end
return released
