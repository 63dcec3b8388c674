-- Let entries wait, due at once, without charging their last delivery; return how many were held.
-- KEYS  stream, waiting, attempts
-- ARGV  group, consumer, positions
local stream, waiting, attempts = KEYS[1], KEYS[2], KEYS[3]
local group, consumer = ARGV[1], ARGV[2]
need({'XPENDING', stream, 'XACK', stream, 'ZCARD', waiting, 'ZADD', waiting, 'HGET', attempts, 'HSET', attempts,
  'TIME', false})
local time = now()
redis.call('ZCARD', waiting)
begin_without_memory(stream, group)
local released = 0
for i = 3, #ARGV do
  local position = ARGV[i]
  local count = held(stream, group, consumer, position)
  if count then
    local _, failures, last = attempts_of(attempts, position)
    redis.call('ZADD', waiting, time, position)
    if count > 1 or failures > 0 then
      note(attempts, position, count - 1, failures, last)
    end
    redis.call('XACK', stream, group, position)
    released = released + 1
  end
end
return released
