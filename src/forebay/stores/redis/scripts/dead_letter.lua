-- Move an entry to the dead letters, its fields unchanged; 0 where the consumer does not hold it.
-- KEYS  stream, dead_letter, dead_counts, attempts, progress
-- ARGV  group, consumer, position, traceback, reason, time, attempts or '' for those of this delivery,
--       then the fields, for where the stream has them no more
local stream, dead_letter, counts, attempts, progress = unpack(KEYS)
local group, consumer, position = ARGV[1], ARGV[2], ARGV[3]
need({'XPENDING', stream, 'XRANGE', stream, 'XACK', stream, 'XADD', dead_letter, 'XLEN', dead_letter,
  'HLEN', counts, 'HGET', counts, 'HSET', counts, 'HLEN', attempts, 'HDEL', attempts,
  'HLEN', progress, 'HGET', progress, 'HSET', progress})

local count = held(stream, group, consumer, position)
if not count then
  return 0
end
redis.call('XLEN', dead_letter)
redis.call('HLEN', counts)
redis.call('HLEN', attempts)
redis.call('HLEN', progress)
local fields = fields_at(stream, position) or {unpack(ARGV, 8)}
local tries = ARGV[7] == '' and count or ARGV[7]
for _, part in ipairs({'traceback', ARGV[4], 'error', ARGV[5], 'failed_at', ARGV[6], 'group', group, 'attempts', tries,
  'position', position}) do
  fields[#fields + 1] = part
end
begin_without_memory(stream, group)
redis.call('XADD', dead_letter, '*', unpack(fields))
count_up(counts, group, 1)
count_up(counts, '*', 1)
redis.call('HDEL', attempts, position)
redis.call('XACK', stream, group, position)
count_up(progress, 'finished', 1)
return 1
