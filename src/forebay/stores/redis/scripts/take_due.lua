-- Lease waiting entries that are due.
-- KEYS  stream, waiting, attempts, dead_letter
-- ARGV  group, consumer, limit, '1' for an ordered reader
-- Returns the stream's time in ms and its offset, then for each: position, fields or false, attempt, failures, the last of
-- these or ''
local stream, waiting, attempts, dead_letter = unpack(KEYS)
local group, consumer, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
need({'XACK', stream, 'XRANGE', stream, 'XCLAIM', stream, 'TIME', false,
  'ZRANGEBYSCORE', waiting, 'ZREM', waiting, 'ZADD', waiting, 'HLEN', attempts, 'HGET', attempts,
  'XLEN', dead_letter, 'XADD', dead_letter})
if ARGV[4] == '1' then
  need({'XPENDING', stream})
end
local time, shows = now(), shown()

-- Reads come first: a key of the wrong type must be met before anything is written.
redis.call('ZRANGEBYSCORE', waiting, '-inf', time, 'LIMIT', 0, 1)
redis.call('HLEN', attempts)
redis.call('XLEN', dead_letter)
begin_without_memory(stream, group)

local leased = {}
local ordered = ARGV[4] == '1'
local positions = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', time, 'LIMIT', 0, ordered and 10000 or limit)) do
  if is_position(member) then
    positions[#positions + 1] = member
  else
    put_aside(waiting, member, 'waiting', dead_letter)
  end
end
if #positions == 0 or (ordered and others_hold(stream, group, consumer)) then
  return {shows, offset(), leased}
end
-- Entries due in the same ms stand in the order of their letters, where 10 comes before 9.
table.sort(positions, before)
for i = 1, math.min(limit, #positions) do
  leased[i] = lease_waiting(stream, waiting, attempts, group, consumer, positions[i], time)
end
return {shows, offset(), leased}
