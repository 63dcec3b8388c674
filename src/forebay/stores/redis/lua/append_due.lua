-- Append the stream's scheduled events that are due, in the order of their times.
-- KEYS  stream, scheduled, moments, ids, dead_letter
-- ARGV  limit
-- Returns the stream's time in ms and its offset, then how many events were appended, and how many members were not
-- forebay's and went to the dead letters
local stream, scheduled, moments, ids, dead_letter = unpack(KEYS)
local limit = tonumber(ARGV[1])
need({'XADD', stream, 'ZRANGEBYSCORE', scheduled, 'ZREM', scheduled, 'ZRANGEBYSCORE', moments, 'ZREM', moments,
  'HLEN', ids, 'HGET', ids, 'HSET', ids, 'XLEN', dead_letter, 'XADD', dead_letter, 'XACK', stream})
local time, shows = now(), shown()

-- Reads come first: a key of the wrong type raises before the first write.
local found = {}
for key, moment in pairs({[scheduled] = time, [moments] = wall()}) do
  found[key] = {moment, redis.call('ZRANGEBYSCORE', key, '-inf', moment, 'WITHSCORES', 'LIMIT', 0, limit)}
end
redis.call('HLEN', ids)
redis.call('XLEN', dead_letter)
begin_without_memory(stream, '')

local due, aside = {}, 0
for key, each in pairs(found) do
  local moment, members = unpack(each)
  for i = 1, #members, 2 do
    local event = unpacked(members[i])
    if event then
      due[#due + 1] = {key, members[i], members[i + 1] - moment, event}
    else
      put_aside(key, members[i], 'scheduled', dead_letter)
      aside = aside + 1
    end
  end
end
table.sort(due, function(a, b) return a[3] < b[3] or (a[3] == b[3] and a[4][1] < b[4][1]) end)
local count = math.min(limit, #due)
for i = 1, count do
  local key, member, _, event = unpack(due[i])
  local position = redis.call('XADD', stream, '*', unpack(event, 3))
  if redis.call('HGET', ids, event[2]) == '' then
    redis.call('HSET', ids, event[2], position)
  end
  redis.call('ZREM', key, member)
end
return {shows, offset(), count, aside}
