-- Put back the items of another store; return the positions of the entries, or false if notes are not as expected.
-- KEYS  stream, dead_letter, dead_counts, scheduled, moments, ids, ids_expiry, notes. The script makes the keys of the
--       groups itself; they share the hash tag
-- ARGV  number of expected notes, for each: name, 'none' or 'just', value;
--       number of changed notes, for each: name, 'remove' or 'keep', value;
--       number of groups that have to exist, their names;
--       then the items, each with its kind and the arguments that its function takes below
local stream, dead_letter, counts, scheduled, moments, ids, expiry, notes = unpack(KEYS)
local tag = '{' .. stream .. '}:'
need({'TIME', false, 'EXISTS', stream, 'XINFO STREAM', stream, 'XINFO GROUPS', stream, 'XADD', stream,
  'XGROUP CREATE', stream, 'XGROUP SETID', stream, 'XCLAIM', stream,
  'EXISTS', dead_letter, 'XINFO STREAM', dead_letter, 'XADD', dead_letter,
  'HLEN', counts, 'HGET', counts, 'HSET', counts,
  'ZCARD', scheduled, 'ZADD', scheduled, 'ZCARD', moments, 'ZADD', moments, 'HLEN', ids, 'HSET', ids, 'ZCARD', expiry, 'ZADD', expiry,
  'HLEN', notes, 'HGET', notes, 'HSET', notes, 'HDEL', notes, 'ZADD', tag .. 'waiting:', 'HSET', tag .. 'attempts:',
  'ZADD', tag .. 'handled:', 'HDEL', tag .. 'progress:'})
local time = now()
local at = 0

local function take(many)
  at = at + many
  return unpack(ARGV, at - many + 1, at)
end

-- Reads come first: a key of the wrong type raises before the first write.
local function last_of(key)
  if redis.call('EXISTS', key) == 0 then
    return '0-0'
  end
  return named(redis.call('XINFO', 'STREAM', key))['last-generated-id']
end
local last = {[stream] = last_of(stream), [dead_letter] = last_of(dead_letter)}
redis.call('HLEN', counts)
redis.call('ZCARD', scheduled)
redis.call('ZCARD', moments)
redis.call('HLEN', ids)
redis.call('ZCARD', expiry)
redis.call('HLEN', notes)
local expected
expected, at = are_as_expected(notes, at)
if not expected then
  return false
end
local changes = {}
for i = 1, tonumber(take(1)) do
  changes[i] = {take(3)}
end
local known = {}
if redis.call('EXISTS', stream) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    known[named(group)['name']] = true
  end
end
for _ = 1, tonumber(take(1)) do
  if not known[take(1)] then
    return redis.error_reply('NOGROUP a group to restore into is not there')
  end
end

-- The item's own position if that is free, else one that keeps its time: after the last one, and not ahead of the clock.
local function place(key, position, ms)
  if position == '' or not before(last[key], position) then
    local last_ms, last_count = string.match(last[key], '^(%d+)-(%d+)$')
    ms = math.min(tonumber(ms), wall())
    if ms > tonumber(last_ms) then
      position = string.format('%.0f-0', ms)
    elseif #last_count < 15 then
      position = string.format('%s-%.0f', last_ms, last_count + 1)
    else
      position = string.format('%.0f-0', last_ms + 1)
    end
  end
  last[key] = position
  return position
end

local function note_attempts(group, position, attempt, failures, last_failure)
  if attempt ~= '0' or failures ~= '0' then
    note_history(tag .. 'attempts:' .. group, position, attempt, failures, 0, last_failure)
  end
end

local positions = {}
local restore = {}

function restore.entry()
  local position, ms, count = take(3)
  position = place(stream, position, ms)
  redis.call('XADD', stream, position, take(count))
  positions[#positions + 1] = position
end

function restore.group()
  local group, position, number = take(3)
  redis.call('HDEL', tag .. 'progress:' .. group, 'finished', 'base', 'gone', 'place')
  if known[group] then
    redis.call('XGROUP', 'SETID', stream, group, position)
  else
    redis.call('XGROUP', 'CREATE', stream, group, position, 'MKSTREAM')
    known[group] = true
  end
  local info = named(redis.call('XINFO', 'STREAM', stream))
  -- Servers before 7 keep no lag.
  if number ~= '' and info['entries-added'] then
    local read = string.format('%.0f', info['entries-added'] - info['length'] + number)
    redis.call('XGROUP', 'SETID', stream, group, position, 'ENTRIESREAD', read)
  end
end

function restore.leased()
  local group, position, consumer, idle, attempt, failures, last_failure = take(7)
  redis.call('XCLAIM', stream, group, consumer, 0, position, 'IDLE', idle, 'RETRYCOUNT', attempt, 'FORCE', 'JUSTID')
  if failures ~= '0' then
    note_attempts(group, position, attempt, failures, last_failure)
  end
end

function restore.waiting()
  local group, position, delay, attempt, failures, last_failure = take(6)
  redis.call('ZADD', tag .. 'waiting:' .. group, time + delay, position)
  note_attempts(group, position, attempt, failures, last_failure)
end

function restore.letter()
  local position, ms, group, count = take(4)
  redis.call('XADD', dead_letter, place(dead_letter, position, ms), take(count))
  count_up(counts, '*', 1)
  if group ~= '' then
    count_up(counts, group, 1)
  end
end

function restore.scheduled()
  local delay, moment, id, count = take(4)
  -- As in schedule.lua: unique, and in the order given among those due in the same ms.
  local arrival = redis.call('TIME')
  local place = string.format('%012d%06d%08d', arrival[1], arrival[2], at)
  local packed = cmsgpack.pack({place, id, take(count)})
  redis.call('ZADD', moment == '' and scheduled or moments, moment == '' and time + delay or moment, packed)
end

function restore.seen()
  local id, left, position = take(3)
  redis.call('HSET', ids, id, position)
  redis.call('ZADD', expiry, wall() + left, id)
end

function restore.handled()
  local id, left, group = take(3)
  redis.call('ZADD', tag .. 'handled:' .. group, wall() + left, id)
end

while at < #ARGV do
  restore[take(1)]()
end
for _, change in ipairs(changes) do
  if change[2] == 'keep' then
    redis.call('HSET', notes, change[1], change[3])
  else
    redis.call('HDEL', notes, change[1])
  end
end
return positions
