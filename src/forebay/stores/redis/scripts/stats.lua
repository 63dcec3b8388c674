-- A stream at a glance.
-- KEYS  stream, dead_letter, dead_counts, scheduled, moments; the waiting keys of its groups are known only here
-- ARGV  most entries to count for a lag, ms within which a consumer has read lately
-- Returns length, scheduled, dead, first or false, last or false, now in ms, then the groups:
--   name, position, lag or false, leased, waiting, dead, oldest unfinished position or false, consumers
local stream = KEYS[1]
local most, lately = tonumber(ARGV[1]), tonumber(ARGV[2])
need({'XLEN', KEYS[2], 'HGET', KEYS[3], 'ZCARD', KEYS[4], 'ZCARD', KEYS[5], 'EXISTS', stream, 'XINFO STREAM', stream,
  'XINFO GROUPS', stream, 'XINFO CONSUMERS', stream, 'XPENDING', stream, 'XRANGE', stream, 'TIME', false})
local dead, scheduled = redis.call('XLEN', KEYS[2]), redis.call('ZCARD', KEYS[4]) + redis.call('ZCARD', KEYS[5])
if redis.call('EXISTS', stream) == 0 then
  return {0, scheduled, dead, false, false, 0, {}}
end

local info = named(redis.call('XINFO', 'STREAM', stream))
local length = info['length']
local first = info['first-entry'] and info['first-entry'][1]
local last = info['last-entry'] and info['last-entry'][1]

-- Servers before 7 keep no lag, and later ones miscount it after a trim: what is certain comes first.
local function lag_of(group)
  local position = group['last-delivered-id']
  if not last or not before(position, last) then
    return 0
  end
  if before(position, first) then
    return length
  end
  if group['lag'] then
    return math.min(group['lag'], length)
  end
  local count = #redis.call('XRANGE', stream, '(' .. position, '+', 'COUNT', most + 1)
  return count <= most and count
end

local groups = {}
for i, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  group = named(group)
  local name = group['name']
  local waits = '{' .. stream .. '}:waiting:' .. name
  need({'ZRANGE', waits})
  local waiting = redis.call('ZRANGE', waits, 0, -1)
  local oldest = redis.call('XPENDING', stream, name)[2]
  for _, position in ipairs(waiting) do
    if not oldest or before(position, oldest) then
      oldest = position
    end
  end
  local consumers = 0
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, name)) do
    consumer = named(consumer)
    if consumer['pending'] > 0 or consumer['idle'] < lately then
      consumers = consumers + 1
    end
  end
  local dead_of = redis.call('HGET', KEYS[3], name)
  groups[i] = {name, group['last-delivered-id'], lag_of(group), group['pending'], #waiting,
    tonumber(dead_of or 0), oldest, consumers}
end
return {length, scheduled, dead, first, last, wall(), groups}
