-- Append scheduled records that are due, in the order of their times.
-- KEYS  stream, scheduled, moments, ids, dead_letter
-- ARGV  limit
-- Returns the stream's time in ms and its offset, and how many records were appended
local stream, scheduled, moments, ids, dead_letter = unpack(KEYS)
local limit = tonumber(ARGV[1])
need({'XADD', stream, 'XACK', stream, 'TIME', false,
  'ZRANGEBYSCORE', scheduled, 'ZREM', scheduled, 'ZRANGEBYSCORE', moments, 'ZREM', moments,
  'HLEN', ids, 'HGET', ids, 'HSET', ids, 'XLEN', dead_letter, 'XADD', dead_letter})
local time, shows = now(), shown()

-- Reads come first: a key of the wrong type must be met before anything is written.
redis.call('HLEN', ids)
redis.call('ZRANGEBYSCORE', scheduled, '-inf', time, 'LIMIT', 0, 1)
redis.call('ZRANGEBYSCORE', moments, '-inf', time, 'LIMIT', 0, 1)
redis.call('XLEN', dead_letter)
begin_without_memory(stream, '')

local due = {}
for key, moment in pairs({[scheduled] = time, [moments] = wall()}) do
  local found = redis.call('ZRANGEBYSCORE', key, '-inf', moment, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #found, 2 do
    local event = unpacked(found[i])
    if event then
      due[#due + 1] = {key, found[i], found[i + 1] - moment, event}
    else
      put_aside(key, found[i], 'scheduled', dead_letter)
    end
  end
end
table.sort(due, function(a, b) return a[3] < b[3] or (a[3] == b[3] and a[4][1] < b[4][1]) end)
local count = math.min(limit, #due)
for i = 1, count do
  local event = due[i][4]
  local position = redis.call('XADD', stream, '*', unpack(event, 3))
  if redis.call('HGET', ids, event[2]) == '' then
    redis.call('HSET', ids, event[2], position)
  end
  redis.call('ZREM', due[i][1], due[i][2])
end
return {shows, offset(), count}
