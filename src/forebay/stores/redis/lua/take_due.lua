-- Lease waiting entries of the group that are due, by position.
-- KEYS  stream, waiting, attempts, dead_letter
-- ARGV  group, consumer, limit, '1' for an ordered reader, how many due entries it sorts at most,
--       ms until an entry that has left the stream is due again
-- Returns the stream's time in ms and its offset, then for each: position, fields or false, number of the lease,
-- attempt, failures, last failure or ''
local stream, waiting, attempts, dead_letter = unpack(KEYS)
local group, consumer, limit, ordered = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local most, vanished_ms = tonumber(ARGV[5]), tonumber(ARGV[6])
need({'XPENDING', stream, 'XACK', stream, 'XRANGE', stream, 'XCLAIM', stream,
  'ZRANGEBYSCORE', waiting, 'ZREM', waiting, 'ZADD', waiting, 'HLEN', attempts, 'HGET', attempts,
  'XLEN', dead_letter, 'XADD', dead_letter})
local time, shows = now(), shown()

-- Reads come first: a key of the wrong type raises before the first write.
local is_taken = others_hold(stream, group, consumer)
local found = redis.call('ZRANGEBYSCORE', waiting, '-inf', time, 'LIMIT', 0, ordered and most or limit)
redis.call('HLEN', attempts)
redis.call('XLEN', dead_letter)
begin_without_memory(stream, group)

local positions = {}
for _, member in ipairs(found) do
  if is_position(member) then
    positions[#positions + 1] = member
  else
    put_aside(waiting, member, 'waiting', dead_letter)
  end
end
local leased = {}
if not (ordered and is_taken) then
  -- Members with the same score are in the order of their letters, where 10 comes before 9.
  table.sort(positions, before)
  for i = 1, math.min(limit, #positions) do
    leased[i] = lease_waiting(stream, waiting, attempts, group, consumer, positions[i], time, vanished_ms)
  end
end
return {shows, offset(), leased}
