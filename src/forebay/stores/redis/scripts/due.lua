-- Append scheduled events whose time has come; then lease waiting entries whose time has come.
-- KEYS  stream, scheduled, moments, ids, waiting, attempts, dead_letter
-- ARGV  group, consumer, limit, '1' for an ordered reader
-- Returns the stream's time in ms and its offset, then for each: position, fields or false, attempt, failures, the last of
-- these or ''
local stream, scheduled, moments, ids, waiting, attempts, dead_letter = unpack(KEYS)
local group, consumer, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
need({'XADD', stream, 'XACK', stream, 'XRANGE', stream, 'XCLAIM', stream, 'TIME', false,
  'ZRANGEBYSCORE', scheduled, 'ZREM', scheduled, 'ZRANGEBYSCORE', moments, 'ZREM', moments,
  'HLEN', ids, 'HGET', ids, 'HSET', ids,
  'ZRANGEBYSCORE', waiting, 'ZREM', waiting, 'ZADD', waiting, 'HLEN', attempts, 'HGET', attempts,
  'XLEN', dead_letter, 'XADD', dead_letter})
if ARGV[4] == '1' then
  need({'XPENDING', stream})
end
local time, shows = now(), shown()

-- Reads come first: a key of the wrong type must be met before anything is written.
redis.call('ZRANGEBYSCORE', waiting, '-inf', time, 'LIMIT', 0, 1)
redis.call('HLEN', ids)
redis.call('HLEN', attempts)
redis.call('ZRANGEBYSCORE', scheduled, '-inf', time, 'LIMIT', 0, 1)
redis.call('ZRANGEBYSCORE', moments, '-inf', time, 'LIMIT', 0, 1)
redis.call('XLEN', dead_letter)
begin_without_memory(stream, group)

local ripe = {}
for key, moment in pairs({[scheduled] = time, [moments] = wall()}) do
  local found = redis.call('ZRANGEBYSCORE', key, '-inf', moment, 'WITHSCORES', 'LIMIT', 0, 200)
  for i = 1, #found, 2 do
    local event = unpacked(found[i])
    if event then
      ripe[#ripe + 1] = {key, found[i], found[i + 1] - moment, event}
    else
      put_aside(key, found[i], 'scheduled', dead_letter)
    end
  end
end
table.sort(ripe, function(a, b) return a[3] < b[3] or (a[3] == b[3] and a[4][1] < b[4][1]) end)
for _, each in ipairs(ripe) do
  local event = each[4]
  local position = redis.call('XADD', stream, '*', unpack(event, 3))
  if redis.call('HGET', ids, event[2]) == '' then
    redis.call('HSET', ids, event[2], position)
  end
  redis.call('ZREM', each[1], each[2])
end

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
