-- Append scheduled events whose time has come; then lease waiting entries whose time has come.
-- KEYS  stream, scheduled, ids, waiting, attempts
-- ARGV  group, consumer, limit, '1' for an ordered reader
-- Returns for each: position, fields or false, attempt, failures
local stream, scheduled, ids, waiting, attempts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = now()

for _, packed in ipairs(redis.call('ZRANGEBYSCORE', scheduled, '-inf', time, 'LIMIT', 0, 200)) do
  local event = cmsgpack.unpack(packed)
  local position = redis.call('XADD', stream, '*', unpack(event, 3))
  if redis.call('HGET', ids, event[2]) == '' then
    redis.call('HSET', ids, event[2], position)
  end
  redis.call('ZREM', scheduled, packed)
end

local leased = {}
local ordered = ARGV[4] == '1'
local positions = redis.call('ZRANGEBYSCORE', waiting, '-inf', time, 'LIMIT', 0, ordered and 10000 or limit)
if #positions == 0 or (ordered and others_hold(stream, group, consumer)) then
  return leased
end
-- Entries due in the same ms stand in the order of their letters, where 10 comes before 9.
table.sort(positions, before)
for i = 1, math.min(limit, #positions) do
  leased[i] = lease_waiting(stream, waiting, attempts, group, consumer, positions[i], time)
end
return leased
