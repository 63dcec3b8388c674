-- Take over entries from consumers that have been silent on them.
-- Also writes down how far the group has finished everything, for `join`.
-- KEYS  stream, attempts, waiting, finished
-- ARGV  group, consumer, idle in ms, limit, cursor (a position or '-'), page, '1' for an ordered reader,
--       ms after which an idle consumer that holds nothing is forgotten, or ''
-- Returns the next cursor, then for each: position, fields or false, attempt, failures, the last of these or ''; then
-- the same for those that an ordered reader takes because they wait and come before the others
local stream, attempts, waiting, finished = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, idle, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local cursor, page, ordered, forget_after = ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8])
need({'XPENDING', stream, 'EXISTS', stream, 'XINFO GROUPS', stream, 'XRANGE', stream, 'XCLAIM', stream, 'XACK', stream,
  'TIME', false, 'ZCARD', waiting, 'ZRANGE', waiting, 'HGET', attempts, 'GET', finished, 'SET', finished})
if ordered then
  need({'ZRANGEBYSCORE', waiting, 'ZREM', waiting, 'ZADD', waiting})
end
begin_without_memory(stream, group)

if redis.call('ZCARD', waiting) <= 1000 then
  local open = redis.call('ZRANGE', waiting, 0, -1)
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
      if row[2] ~= consumer and row[3] < idle then
        return {'-', {}, {}}
      end
      from = '(' .. row[1]
    end
  until #found < page
end

local found = redis.call('XPENDING', stream, group, cursor, '+', page)
local claimed, returned = {}, {}
local ripe, next_ripe = {}, 1
local time = now()
if ordered then
  ripe = redis.call('ZRANGEBYSCORE', waiting, '-inf', time, 'LIMIT', 0, 10000)
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
    local _, failures, last_failure = noted(attempts, position)
    claimed[#claimed + 1] = {position, fields, count, failures, last_failure}
  end
end
if #found < page and #claimed + #returned < limit then
  last = '-'
end
return {last, claimed, returned}
