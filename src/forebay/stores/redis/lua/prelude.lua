-- The beginning of every script.

-- Otherwise Redis 6 would repeat the script on its replicas, with times and positions of their own.
redis.replicate_commands()

-- Whether the user has the right to run a command on a key. Redis before 7 cannot be asked; it refuses the command.
local function may(command, key)
  if not redis.acl_check_cmd then
    return true
  end
  local words = {}
  for word in string.gmatch(command, '%S+') do
    words[#words + 1] = word
  end
  words[#words + 1] = key or nil
  return redis.acl_check_cmd(unpack(words))
end

-- Refuse the whole move if the user lacks a right to any of its commands. For each: the command, its key or false.
local function need(commands)
  for i = 1, #commands, 2 do
    if not may(commands[i], commands[i + 1]) then
      error({err = "NOPERM this user has no permissions to run the '" .. string.lower(commands[i]) .. "' command"
        .. (commands[i + 1] and ' on the key ' .. commands[i + 1] or '')})
    end
  end
end

-- A full server refuses a script whose first write may grow a key, and no later write. A move that has to succeed
-- begins with this write, which changes nothing: no entry has this position.
local function begin_without_memory(stream, group)
  redis.call('XACK', stream, group, '0-0')
end

-- Add to a count in a hash. A count that is not a number begins at 0: HINCRBY would refuse it in the middle of a move.
local function count_up(hash, field, by)
  local count = tonumber(redis.call('HGET', hash, field) or 0) or 0
  redis.call('HSET', hash, field, string.format('%.0f', count + by))
end

-- Unix time in ms, by the server's wall clock.
local function wall()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether a text is a number that can be counted with.
local NUMBER_LENGTH = 15
local function is_number(text)
  return #text <= NUMBER_LENGTH and string.match(text, '^-?%d+$') ~= nil
end

-- Whether a text is a full position.
local function is_position(text)
  return string.match(text, '^%d+-%d+$') ~= nil
end

-- Whether position a comes before position b. Compares digits, because Lua's numbers lose the last ones.
local function before(a, b)
  local a_time, a_count = string.match(a, '^(%d+)-(%d+)$')
  local b_time, b_count = string.match(b, '^(%d+)-(%d+)$')
  if a_time ~= b_time then
    return #a_time < #b_time or (#a_time == #b_time and a_time < b_time)
  end
  return #a_count < #b_count or (#a_count == #b_count and a_count < b_count)
end

-- A position between this one and the entry before it.
local function just_before(position)
  local time, count = string.match(position, '^(%d+)-(%d+)$')
  if #count > 15 then
    return time .. '-0' -- the number is too long to count with; entries in between are handled twice
  elseif count ~= '0' then
    return time .. '-' .. string.format('%.0f', count - 1)
  end
  return time == '0' and '0-0' or string.format('%.0f', time - 1) .. '-18446744073709551615'
end

-- The table for a flat list of names and values, as XINFO returns it.
local function named(list)
  local table = {}
  for i = 1, #list, 2 do
    table[list[i]] = list[i + 1]
  end
  return table
end

-- The place itself, or the end of the stream if the place is after it: later entries may come before the place.
local function not_beyond(stream, place)
  local last = '0-0'
  if redis.call('EXISTS', stream) == 1 then
    last = named(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
  end
  return (place ~= '$' and before(last, place)) and last or place
end

-- The fields of the entry at a position, or false if it has left the stream.
local function fields_at(stream, position)
  local found = redis.call('XRANGE', stream, position, position)
  return found[1] and found[1][2] or false
end

-- Whether the consumer holds the lease of this number. The number of a lease is the server's delivery count.
local function holds(stream, group, consumer, position, number)
  local found = redis.call('XPENDING', stream, group, position, position, 1, consumer)
  return found[1] ~= nil and found[1][4] == tonumber(number)
end

-- The history of an entry that was retried or released: its attempts, its failures, the offset from its attempts to
-- the number of its leases, and its last failure, packed, or ''. The hash `attempts` notes it as
--   "attempts failures", then " offset" if that is not 0, then " last failure" if there is one.
-- A released lease is not an attempt: it adds 1 to the offset. A lease kept for a retry has several: it subtracts 1.
local function history_of(attempts, position)
  local count, failures, last = string.match(redis.call('HGET', attempts, position) or '', '^(%d+) (%d+) ?(.*)$')
  last = last or ''
  local offset, after = string.match(last .. ' ', '^(-?%d+) (.*)$')
  if offset then
    last = string.sub(after, 1, -2)
  end
  return tonumber(count or 0), tonumber(failures or 0), tonumber(offset or 0), last
end

local function note_history(attempts, position, count, failures, offset, last)
  redis.call('HSET', attempts, position, string.format('%.0f %.0f', count, failures)
    .. (offset == 0 and '' or string.format(' %.0f', offset)) .. (last == '' and '' or ' ' .. last))
end

-- The attempt that a lease of this number is.
local function attempt_of(number, offset)
  return math.max(1, number - offset)
end

-- Lease a waiting entry; return its position, its fields or false, the number of the lease, its attempt, its failures
-- and its last failure. No server leases an entry that has left the stream: it waits again, for `vanished_ms`, so that
-- another consumer gets it if this one dies.
local function lease_waiting(stream, waiting, attempts, group, consumer, position, time, vanished_ms)
  local count, failures, offset, last = history_of(attempts, position)
  local fields = fields_at(stream, position)
  local number = math.max(1, count + offset + 1)
  if fields then
    redis.call('XCLAIM', stream, group, consumer, 0, position, 'FORCE', 'RETRYCOUNT', number, 'JUSTID')
    redis.call('ZREM', waiting, position)
  else
    redis.call('ZADD', waiting, time + vanished_ms, position)
  end
  return {position, fields, number, count + 1, failures, last}
end

-- Whether the group exists.
local function is_group(stream, group)
  local found = redis.pcall('XPENDING', stream, group)
  if not found.err then
    return true
  elseif string.find(found.err, 'NOGROUP', 1, true) then
    return false
  end
  return redis.call('XPENDING', stream, group) -- raises the error
end

-- The entry of XINFO GROUPS for a group; nil if the group does not exist.
local function group_info(stream, group)
  if redis.call('EXISTS', stream) == 0 then
    return nil
  end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    info = named(info)
    if info['name'] == group then
      return info
    end
  end
end

-- The last position that was delivered to the group; nil if the group does not exist.
local function last_delivered(stream, group)
  local info = group_info(stream, group)
  return info and info['last-delivered-id']
end

-- The number of entries between two positions, as XRANGE takes them; nil if there are more than `most`, or if they are
-- large, because the server does nothing else meanwhile. Pages begin small: the size of the entries is unknown.
local COUNT_PAGE, BYTES_AN_ENTRY = 500, 1000
local function count_between(stream, from, to, most)
  local count, bytes, page = 0, 0, 1
  while true do
    local found = redis.call('XRANGE', stream, from, to, 'COUNT', page)
    for _, entry in ipairs(found) do
      for _, part in ipairs(entry[2]) do
        bytes = bytes + #part
      end
    end
    count = count + #found
    if count > most or bytes > most * BYTES_AN_ENTRY then
      return nil
    elseif #found < page then
      return count
    end
    from = '(' .. found[#found][1]
    page = math.min(page * 2, COUNT_PAGE)
  end
end

-- The number of a stream's entries after a position; nil if counting `most` is not enough. `info` is XINFO STREAM.
local function count_after(stream, position, info, most)
  local first, last = info['first-entry'], info['last-entry']
  if not last or not before(position, last[1]) then
    return 0
  elseif before(position, first[1]) then
    return info['length']
  end
  local count = count_between(stream, '(' .. position, '+', most)
  if not count then
    local others = count_between(stream, '-', position, most)
    count = others and info['length'] - others
  end
  return count
end

-- Entries that were removed before a group read them can be counted, however they were removed. Each entry added since
-- the group began is finished, leased, waiting, unread, or was removed unread. The hash `progress` keeps
--   finished   the number of entries that the group has finished
--   base       the number of added entries in none of these places, at the last count
--   gone       the number of entries that had left the stream by then
--   place      the last position delivered to the group by then
--   unknown    set if the group was lost with its stream: its unread entries are unknown
-- Counts again; returns how many more were removed unread, or nil if that is unknown. `group` is from XINFO GROUPS.
local UNREAD_SURE, UNREAD_COUNTED = 100, 10000 -- entries to count at most, by whether the result can change the answer
local function count_trimmed_unread(stream, waiting, progress, info, group)
  local added = info['entries-added']
  if not added then
    return nil -- Redis before 7
  end
  local place, gone = group['last-delivered-id'], added - info['length']
  local base = tonumber(redis.call('HGET', progress, 'base') or nil)
  local gone_before = tonumber(redis.call('HGET', progress, 'gone') or nil)
  local place_before = redis.call('HGET', progress, 'place')
  local is_known = base and gone_before and place_before and is_position(place_before)
  if is_known and gone == gone_before and place == place_before then
    return 0
  end
  local first = info['first-entry']
  local is_certain = is_known and (gone == gone_before
    or first and not before(place_before, first[1]) and not before(place_before, info['max-deleted-entry-id']))
  local unread = count_after(stream, place, info, is_certain and UNREAD_SURE or UNREAD_COUNTED)
  if not unread then
    if is_certain then
      redis.call('HSET', progress, 'gone', gone, 'place', place)
      return 0
    end
    return nil
  end
  local finished = tonumber(redis.call('HGET', progress, 'finished') or 0) or 0
  local open = group['pending'] + redis.call('ZCARD', waiting)
  local now = added - finished - open - unread
  local trimmed
  if is_certain then
    trimmed = 0
  elseif is_known then
    -- At most as many as were removed: other programs may acknowledge or skip entries in the group's name.
    trimmed = math.max(0, math.min(now - base, gone - gone_before))
  elseif group['entries-read'] then
    trimmed = math.max(0, added - unread - group['entries-read'])
  end
  redis.call('HSET', progress, 'base', now, 'gone', gone, 'place', place)
  if group['entries-read'] ~= added - unread and may('XGROUP SETID', stream) then
    -- The server computes its lag from this.
    redis.call('XGROUP', 'SETID', stream, group['name'], place, 'ENTRIESREAD', added - unread)
  end
  return trimmed
end

-- Count from here on: the group has just been moved.
local function recount_from_here(stream, waiting, progress, group)
  redis.call('HDEL', progress, 'base', 'gone', 'place')
  count_trimmed_unread(stream, waiting, progress, named(redis.call('XINFO', 'STREAM', stream)), group_info(stream, group))
end

-- The members that are positions: other programs may put anything into a key.
local function positions_in(members)
  local found = {}
  for _, member in ipairs(members) do
    if is_position(member) then
      found[#found + 1] = member
    end
  end
  return found
end

-- A scheduled event as schedule.lua packed it: its place, its id, then names and values; nil for anything else.
local function unpacked(packed)
  local is_packed, event = pcall(cmsgpack.unpack, packed)
  if not is_packed or type(event) ~= 'table' or #event < 4 or #event % 2 == 1 then
    return nil
  end
  for _, part in ipairs(event) do
    if type(part) ~= 'string' then
      return nil
    end
  end
  return event
end

-- Move a member that another program put there to the dead letters, as one without a group: operators find it there,
-- and it does not delay the others.
local function put_aside(key, member, what, dead_letter)
  redis.call('XADD', dead_letter, '*', what, member)
  redis.call('ZREM', key, member)
end

-- Remove the waiting entries after a place: they are read again with the others.
local function drop_waiting_after(waiting, attempts, place)
  for _, position in ipairs(positions_in(redis.call('ZRANGE', waiting, 0, -1))) do
    if before(place, position) then
      redis.call('HDEL', attempts, position)
      redis.call('ZREM', waiting, position)
    end
  end
end

-- Whether a consumer other than this one holds an entry of the group.
local function others_hold(stream, group, consumer)
  local summary = redis.call('XPENDING', stream, group)
  for _, holder in ipairs(summary[4] or {}) do
    if holder[1] ~= consumer then
      return true
    end
  end
  return false
end

-- Remove some of the expired ids: more than are added, so that they do not accumulate.
local EXPIRED_PER_CALL = 1000
local function expire_ids(ids, expiry, time)
  local over = redis.call('ZRANGEBYSCORE', expiry, '-inf', time, 'LIMIT', 0, EXPIRED_PER_CALL)
  if #over > 0 and may('ZREM', expiry) and (not ids or may('HDEL', ids)) then
    if ids then
      redis.call('HDEL', ids, unpack(over))
    end
    redis.call('ZREM', expiry, unpack(over))
  end
end

-- Whether notes are as expected. The arguments after `at` are their number, then for each its name, 'none' or 'just',
-- and a value. Returns also the index of the last argument that was read.
local function are_as_expected(notes, at)
  local most = at + 1 + 3 * ARGV[at + 1]
  for i = at + 2, most, 3 do
    if (redis.call('HGET', notes, ARGV[i]) or false) ~= (ARGV[i + 1] == 'just' and ARGV[i + 2]) then
      return false, most
    end
  end
  return true, most
end
