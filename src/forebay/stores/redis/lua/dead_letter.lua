-- Move an entry to the dead letters, its fields unchanged; 0 if the consumer does not hold the lease.
-- KEYS  stream, dead_letter, dead_counts, attempts, progress
-- ARGV  group, consumer, position, number of the lease, traceback, reason, time, attempts or '' for those of this
--       delivery, then the fields, in case the entry has left the stream
local stream, dead_letter, counts, attempts, progress = unpack(KEYS)
local group, consumer, position, number = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
need({'XPENDING', stream, 'XRANGE', stream, 'XACK', stream, 'XADD', dead_letter, 'XLEN', dead_letter,
  'HLEN', counts, 'HGET', counts, 'HSET', counts, 'HGET', attempts, 'HDEL', attempts,
  'HLEN', progress, 'HGET', progress, 'HSET', progress})

if not holds(stream, group, consumer, position, number) then
  return 0
end
redis.call('XLEN', dead_letter)
redis.call('HLEN', counts)
redis.call('HLEN', progress)
local _, _, lease_offset = history_of(attempts, position)
local fields = fields_at(stream, position) or {unpack(ARGV, 9)}
local tries = ARGV[8] == '' and attempt_of(number, lease_offset) or ARGV[8]
for _, part in ipairs({'traceback', ARGV[5], 'error', ARGV[6], 'failed_at', ARGV[7], 'group', group, 'attempts', tries,
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
