-- A stream at a glance.
-- KEYS  stream, dead_letter, dead_counts, scheduled, moments. The script makes the waiting keys of the groups itself
-- ARGV  how many entries to count at most for a lag or for the oldest one, ms within which a read is recent
-- Returns length, scheduled, dead, counted as dead, first or false, last or false, now in ms, then the groups:
--   name, position, lag or false, leased, waiting, dead, consumers, oldest unfinished position, false or 'unknown'
local stream, counts = KEYS[1], KEYS[3]
local most, lately = tonumber(ARGV[1]), tonumber(ARGV[2])
need({'XLEN', KEYS[2], 'HGET', counts, 'ZCARD', KEYS[4], 'ZCARD', KEYS[5], 'EXISTS', stream, 'XINFO STREAM', stream,
  'XINFO GROUPS', stream, 'XINFO CONSUMERS', stream, 'XPENDING', stream, 'XRANGE', stream, 'TIME', false})
local dead, scheduled = redis.call('XLEN', KEYS[2]), redis.call('ZCARD', KEYS[4]) + redis.call('ZCARD', KEYS[5])
local counted = tonumber(redis.call('HGET', counts, '*') or 0) or 0
if redis.call('EXISTS', stream) == 0 then
  return {0, scheduled, dead, counted, false, false, 0, {}}
end

local info = named(redis.call('XINFO', 'STREAM', stream))
local length = info['length']
local first = info['first-entry'] and info['first-entry'][1]
local last = info['last-entry'] and info['last-entry'][1]

-- Servers before 7 keep no lag, and later ones miscount it after a trim: the certain cases come first.
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
  return count_after(stream, position, info, most) or false
end

-- The oldest pending entry of a group. The waiting ones are sorted by the time when they are due, not by their age.
local function oldest_of(group, waiting, count)
  if count > most then
    return 'unknown'
  end
  local oldest = redis.call('XPENDING', stream, group)[2]
  for _, position in ipairs(positions_in(redis.call('ZRANGE', waiting, 0, -1))) do
    if not oldest or before(position, oldest) then
      oldest = position
    end
  end
  return oldest
end

local groups = {}
for i, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  group = named(group)
  local name = group['name']
  local waiting = '{' .. stream .. '}:waiting:' .. name
  need({'ZCARD', waiting, 'ZRANGE', waiting})
  local waits = redis.call('ZCARD', waiting)
  local consumers = 0
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, name)) do
    consumer = named(consumer)
    if consumer['pending'] > 0 or consumer['idle'] < lately then
      consumers = consumers + 1
    end
  end
  groups[i] = {name, group['last-delivered-id'], lag_of(group), group['pending'], waits,
    tonumber(redis.call('HGET', counts, name) or 0) or 0, consumers, oldest_of(name, waiting, waits)}
end
return {length, scheduled, dead, counted, first, last, wall(), groups}
