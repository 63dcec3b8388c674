-- The work of groups besides their unread entries.
-- KEYS  for each stream: stream, scheduled, moments, clock, then the waiting key of each of its readers
-- ARGV  for each stream: earliest and latest time in ms that the caller accepts, or '', its number of readers,
--       then for each of them: group, consumer
-- Returns for each stream: its time in ms, its offset, ms until its next scheduled event or false, then for each reader:
--   false if the group does not exist, or: ms until its next waiting entry or false, whether others hold an entry,
--   whether entries may be unread, last position delivered, leased entries, waiting entries
need({'XPENDING', KEYS[1], 'XINFO GROUPS', KEYS[1], 'XRANGE', KEYS[1], 'XACK', KEYS[1],
  'ZRANGE', KEYS[2], 'ZCARD', KEYS[2], 'HGET', KEYS[4], 'TIME', false})
-- A replica refuses this write, and the caller looks for the master. It changes nothing.
local written = redis.pcall('XACK', KEYS[1], '', '0-0')
if type(written) == 'table' and not string.find(written.err, 'WRONGTYPE', 1, true) then
  return written
end
local wall_time = wall()
local key, arg = 0, 0

local function next_key()
  key = key + 1
  return KEYS[key]
end

local function next_arg()
  arg = arg + 1
  return ARGV[arg]
end

-- The reply to a read, or nil if the key belongs to something else: the moves on it report that.
local function read(...)
  local reply = redis.pcall(...)
  return not (type(reply) == 'table' and reply.err) and reply or nil
end

local function first_score(sorted_set)
  local first = read('ZRANGE', sorted_set, 0, 0, 'WITHSCORES')
  return first and tonumber(first[2]) or nil
end

-- The time of the next scheduled event, in ms from now; false if there is none.
local function next_scheduled(scheduled, moments, time)
  local delay, moment = first_score(scheduled), first_score(moments)
  delay, moment = delay and delay - time, moment and moment - wall_time
  return delay and moment and math.min(delay, moment) or delay or moment or false
end

local function groups_of(stream)
  local groups = {}
  for _, info in ipairs(read('XINFO', 'GROUPS', stream) or {}) do
    info = named(info)
    groups[info['name']] = info
  end
  return groups
end

-- Whether entries come after a position. Of streams with unread entries the server's lag is enough: reading an entry
-- would copy it.
local function has_unread(stream, info, empty_after)
  local place = info['last-delivered-id']
  if info['lag'] and info['lag'] ~= 0 then
    return 1
  end
  if empty_after[place] == nil then
    empty_after[place] = #redis.call('XRANGE', stream, '(' .. place, '+', 'COUNT', 1) == 0
  end
  return empty_after[place] and 0 or 1
end

local streams = {}
while key < #KEYS do
  local stream, scheduled, moments, clock = next_key(), next_key(), next_key(), next_key()
  local earliest, latest, readers = tonumber(next_arg()), tonumber(next_arg()), tonumber(next_arg())
  local offset = read('HGET', clock, 'offset')
  offset = offset and is_number(offset) and offset or '0'
  local shows = wall_time + offset
  local time = shows
  if latest and (time > latest or time < earliest) then
    time = math.floor((earliest + latest) / 2)
  end
  local found = {shows, offset, next_scheduled(scheduled, moments, time)}
  local groups, empty_after = groups_of(stream), {}
  for _ = 1, readers do
    local waiting, group, consumer = next_key(), next_arg(), next_arg()
    local info = groups[group]
    if info then
      local due = first_score(waiting)
      found[#found + 1] = {due and math.floor(due - time) or false,
        info['pending'] > 0 and others_hold(stream, group, consumer) and 1 or 0, has_unread(stream, info, empty_after),
        info['last-delivered-id'], info['pending'], due and read('ZCARD', waiting) or 0}
    else
      found[#found + 1] = false
    end
  end
  streams[#streams + 1] = found
end
return streams
