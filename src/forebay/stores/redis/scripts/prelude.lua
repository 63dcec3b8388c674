-- What every script begins with.

-- Redis 6 would else repeat the script on its replicas, with times and positions of their own.
redis.replicate_commands()

-- Whether the user has the right to run a command on a key. Redis before 7 does not tell, and says no at the command.
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

-- A server without memory refuses a script's first write if it may grow a key, and none after that. A move that has
-- to succeed begins with this write, which changes nothing: no entry has this position.
local function begin_without_memory(stream, group)
  redis.call('XACK', stream, group, '0-0')
end

-- Add to a count in a hash. One that is no number counts from 0: HINCRBY would refuse it in the middle of a move.
local function count_up(hash, field, by)
  local count = tonumber(redis.call('HGET', hash, field) or 0) or 0
  redis.call('HSET', hash, field, string.format('%.0f', count + by))
end

-- Unix time in ms, by the server's wall clock.
local function wall()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether a text is a position in full.
local function is_position(text)
  return string.match(text, '^%d+-%d+$') ~= nil
end

-- Whether position a stands before position b. Compares digits, as numbers this long lose their last ones.
local function before(a, b)
  local a_time, a_count = string.match(a, '^(%d+)-(%d+)$')
  local b_time, b_count = string.match(b, '^(%d+)-(%d+)$')
  if a_time ~= b_time then
    return #a_time < #b_time or (#a_time == #b_time and a_time < b_time)
  end
  return #a_count < #b_count or (#a_count == #b_count and a_count < b_count)
end

-- A position before this one, and behind the entry that stands before it.
local function just_before(position)
  local time, count = string.match(position, '^(%d+)-(%d+)$')
  if #count > 15 then
    return time .. '-0' -- too long a number to count with; what lies between is handled twice
  elseif count ~= '0' then
    return time .. '-' .. string.format('%.0f', count - 1)
  end
  return time == '0' and '0-0' or string.format('%.0f', time - 1) .. '-18446744073709551615'
end

-- A flat list of names and values, as XINFO gives it, as a table.
local function named(list)
  local table = {}
  for i = 1, #list, 2 do
    table[list[i]] = list[i + 1]
  end
  return table
end

-- The place itself, or the end of the stream where no entry stands behind it yet: later ones may come before it.
local function not_beyond(stream, place)
  local last = '0-0'
  if redis.call('EXISTS', stream) == 1 then
    last = named(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
  end
  return (place ~= '$' and before(last, place)) and last or place
end

-- The fields of the entry at a position, or false where it has left the stream.
local function fields_at(stream, position)
  local found = redis.call('XRANGE', stream, position, position)
  return found[1] and found[1][2] or false
end

-- How often the entry was delivered, if the consumer holds it now; else nil.
local function held(stream, group, consumer, position)
  local found = redis.call('XPENDING', stream, group, position, position, 1, consumer)
  return found[1] and found[1][4]
end

-- Attempts and failures that the group has noted for a position, and the last failure, packed, or ''.
local function attempts_of(attempts, position)
  local text = redis.call('HGET', attempts, position)
  if not text then
    return 0, 0, ''
  end
  local count, failures, last = string.match(text, '^(%d+) (%d+) ?(.*)$')
  return tonumber(count or 0), tonumber(failures or 0), last or ''
end

-- Note them.
local function note(attempts, position, count, failures, last)
  redis.call('HSET', attempts, position, count .. ' ' .. failures .. (last == '' and '' or ' ' .. last))
end

-- Lease an entry that waits; return its position, its fields or false, its attempt, its failures and the last of these.
local function lease_waiting(stream, waiting, attempts, group, consumer, position, time)
  local count, failures, last = attempts_of(attempts, position)
  local fields = fields_at(stream, position)
  if fields then
    redis.call('XCLAIM', stream, group, consumer, 0, position, 'FORCE', 'RETRYCOUNT', count + 1, 'JUSTID')
    redis.call('ZREM', waiting, position)
  else
    -- No server leases what it does not have. It waits on, so that somebody else gets it if this one dies.
    redis.call('ZADD', waiting, time + 30000, position)
  end
  return {position, fields, count + 1, failures, last}
end

-- A group as the server describes it; nil where there is no such group.
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

-- The last position that the group has handed out; nil where there is no such group.
local function last_delivered(stream, group)
  local info = group_info(stream, group)
  return info and info['last-delivered-id']
end

-- How many entries stand between two places, as XRANGE takes them; nil where there are more than `most`, or they are
-- large: all others wait for this. Pages begin small, as nobody knows how large the entries are.
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
    if count > most or bytes > most * 1000 then
      return nil
    elseif #found < page then
      return count
    end
    from = '(' .. found[#found][1]
    page = math.min(page * 2, 500)
  end
end

-- How many of a stream's entries stand after a position; nil where counting `most` does not tell. `info` is XINFO STREAM.
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

-- What a group has missed can be reckoned, whoever removes what and whenever: each entry that was added since the group
-- began is finished, leased, waiting, unread, or was removed unread. The hash `progress` keeps
--   finished   how many entries the group has finished
--   base       how many entries were added that are in none of these places, at the last reckoning
--   gone       how many entries had left the stream by then
--   place      the last position that the group had been handed by then
--   unknown    that the group was lost with its stream, and nobody knows what it had not read
-- Reckons anew; returns how many more were removed unread, or nil where that is not known. `group` is XINFO GROUPS.
local function reckon(stream, waiting, progress, info, group)
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
  local unread = count_after(stream, place, info, is_certain and 100 or 10000)
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
  local missed
  if is_certain then
    missed = 0
  elseif is_known then
    -- More cannot be missed than was removed: others may acknowledge or skip entries in the group's name.
    missed = math.max(0, math.min(now - base, gone - gone_before))
  elseif group['entries-read'] then
    missed = math.max(0, added - unread - group['entries-read'])
  end
  redis.call('HSET', progress, 'base', now, 'gone', gone, 'place', place)
  if group['entries-read'] ~= added - unread and may('XGROUP SETID', stream) then
    -- The server reckons its lag from this.
    redis.call('XGROUP', 'SETID', stream, group['name'], place, 'ENTRIESREAD', added - unread)
  end
  return missed
end

-- Reckon from here on: the group has just got another place.
local function reckon_from_here(stream, waiting, progress, group)
  redis.call('HDEL', progress, 'base', 'gone', 'place')
  reckon(stream, waiting, progress, named(redis.call('XINFO', 'STREAM', stream)), group_info(stream, group))
end

-- Those members that are positions: others may put anything into a key.
local function positions_in(members)
  local found = {}
  for _, member in ipairs(members) do
    if is_position(member) then
      found[#found + 1] = member
    end
  end
  return found
end

-- A scheduled event as schedule packed it: its place, its id, then names and values; nil for anything else.
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

-- Take a member that forebay did not put there out of the way of the others, where operators find it: to the dead
-- letters, as one without a group.
local function put_aside(key, member, what, dead_letter)
  redis.call('XADD', dead_letter, '*', what, member)
  redis.call('ZREM', key, member)
end

-- Let what waits behind a place be read again with the rest, and not wait as well.
local function drop_waiting_after(waiting, attempts, place)
  for _, position in ipairs(positions_in(redis.call('ZRANGE', waiting, 0, -1))) do
    if before(place, position) then
      redis.call('HDEL', attempts, position)
      redis.call('ZREM', waiting, position)
    end
  end
end

-- Whether a consumer other than this one holds anything of the group.
local function others_hold(stream, group, consumer)
  local summary = redis.call('XPENDING', stream, group)
  for _, holder in ipairs(summary[4] or {}) do
    if holder[1] ~= consumer then
      return true
    end
  end
  return false
end

-- Forget some of the ids whose time is over: more than were added, so that they cannot pile up.
local function expire_ids(ids, expiry, time, most)
  local over = redis.call('ZRANGEBYSCORE', expiry, '-inf', time, 'LIMIT', 0, most)
  if #over > 0 and may('ZREM', expiry) and (not ids or may('HDEL', ids)) then
    if ids then
      redis.call('HDEL', ids, unpack(over))
    end
    redis.call('ZREM', expiry, unpack(over))
  end
end

-- Whether notes are as expected. From the argument after `at`: how many, then for each its name, 'none' or 'just', a value.
-- Returns also the last argument that was read.
local function are_as_expected(notes, at)
  local most = at + 1 + 3 * ARGV[at + 1]
  for i = at + 2, most, 3 do
    if (redis.call('HGET', notes, ARGV[i]) or false) ~= (ARGV[i + 1] == 'just' and ARGV[i + 2]) then
      return false, most
    end
  end
  return true, most
end
