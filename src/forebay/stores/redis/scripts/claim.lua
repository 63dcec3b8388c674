-- Take over entries from consumers that have been silent on them.
-- Also writes down how far the group has finished everything, for `join`.
-- KEYS  stream, attempts, waiting, finished
-- ARGV  group, consumer, idle in ms, limit, cursor (a position or '-'), page, '1' for an ordered reader,
--       ms after which an idle consumer that holds nothing is forgotten, or '',
--       'hold' where the caller has just begun to watch the clock, 'sure' where it has watched it for long, or 'watch'
-- Returns the stream's time in ms and its offset, the next cursor, then for each: position, fields or false, attempt,
-- failures, the last of these or ''; then the same for those that an ordered reader takes because they wait and come
-- before the others
local stream, attempts, waiting, finished = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, idle, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local cursor, page, ordered, forget_after = ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8])
need({'XPENDING', stream, 'EXISTS', stream, 'XINFO GROUPS', stream, 'XRANGE', stream, 'XCLAIM', stream, 'XACK', stream,
  'TIME', false, 'ZCARD', waiting, 'ZRANGE', waiting, 'HLEN', attempts, 'HGET', attempts, 'GET', finished, 'SET', finished, 'HSET', clock})
if ordered then
  need({'ZRANGEBYSCORE', waiting, 'ZREM', waiting, 'ZADD', waiting})
end
-- Reads come first: a key of the wrong type must be met before anything is written.
redis.call('ZCARD', waiting)
redis.call('HLEN', attempts)
redis.call('GET', finished)
begin_without_memory(stream, group)

local time, shows = now(), shown()
local since, seen = kept('since'), kept('seen')
if ARGV[9] == 'sure' and time == shows and math.abs(wall() - (seen or 0)) > 10000 then
  -- For stores that were frozen without their clock: to them the server's clock seems to have been set.
  redis.call('HSET', clock, 'seen', string.format('%.0f', wall()))
end
-- How long leases may have lasted: only the time that has passed since the clock was set is sure.
local spare = math.max(0, shows - time)
local may_claim = wall() - (since or 0) >= idle + spare
if ARGV[9] == 'hold' and seen then
  -- Others who watch the clock may be about to notice that it was set.
  may_claim = false
end
idle = idle + spare

if redis.call('ZCARD', waiting) <= 1000 then
  local open = positions_in(redis.call('ZRANGE', waiting, 0, -1))
  open[#open + 1] = redis.call('XPENDING', stream, group)[2] or nil
  table.sort(open, before)
  local place = open[1] and just_before(open[1]) or last_delivered(stream, group)
  if place ~= redis.call('GET', finished) then
    redis.call('SET', finished, place)
  end
end

if forget_after and may('XINFO CONSUMERS', stream) and may('XGROUP DELCONSUMER', stream) then
  for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    other = named(other)
    -- To forget one that holds entries would lose them. One that comes back is made anew.
    if other['pending'] == 0 and other['idle'] > forget_after then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, other['name'])
    end
  end
end

if ordered then
  -- One other consumer that is still alive has all of the group to itself.
  cursor = '-'
  local from = '-'
  repeat
    local found = redis.call('XPENDING', stream, group, from, '+', page)
    for _, row in ipairs(found) do
      if row[2] ~= consumer and (row[3] < idle or not may_claim) then
        return {shows, offset(), '-', {}, {}}
      end
      from = '(' .. row[1]
    end
  until #found < page
end

local found = redis.call('XPENDING', stream, group, cursor, '+', page)
local claimed, returned = {}, {}
local ripe, next_ripe = {}, 1
if not may_claim then
  found = {}
end
if ordered then
  ripe = positions_in(redis.call('ZRANGEBYSCORE', waiting, '-inf', time, 'LIMIT', 0, 10000))
  table.sort(ripe, before)
end
local last = '-'
for _, row in ipairs(found) do
  if row[3] >= idle then
    while ripe[next_ripe] and before(ripe[next_ripe], row[1]) and #claimed + #returned < limit do
      returned[#returned + 1] = lease_waiting(stream, waiting, attempts, group, consumer, ripe[next_ripe], time)
      next_ripe = next_ripe + 1
    end
  end
  if #claimed + #returned >= limit then
    break
  end
  last = '(' .. row[1]
  if row[3] >= idle then
    local position, count = row[1], row[4] + 1
    local fields = fields_at(stream, position)
    if fields then
      redis.call('XCLAIM', stream, group, consumer, 0, position, 'RETRYCOUNT', count, 'JUSTID')
    end
    local _, failures, last_failure = attempts_of(attempts, position)
    claimed[#claimed + 1] = {position, fields, count, failures, last_failure}
  end
end
if #found < page and #claimed + #returned < limit then
  last = '-'
end
return {shows, offset(), last, claimed, returned}
