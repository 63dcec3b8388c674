-- What every script begins with.

-- Redis 6 would else repeat the script on its replicas, with times and positions of their own.
redis.replicate_commands()

-- Unix time in ms, by the server's wall clock.
local function wall()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The time in ms by which durations are measured.
local function now()
  return wall()
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
local function noted(attempts, position)
  local text = redis.call('HGET', attempts, position)
  if not text then
    return 0, 0, ''
  end
  local count, failures, last = string.match(text, '^(%d+) (%d+) ?(.*)$')
  return tonumber(count), tonumber(failures), last
end

-- Note them.
local function note(attempts, position, count, failures, last)
  redis.call('HSET', attempts, position, count .. ' ' .. failures .. (last == '' and '' or ' ' .. last))
end

-- Lease an entry that waits; return its position, its fields or false, its attempt, its failures and the last of these.
local function lease_waiting(stream, waiting, attempts, group, consumer, position, time)
  local count, failures, last = noted(attempts, position)
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

-- The last position that the group has handed out; nil where there is no such group.
local function last_delivered(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, info in ipairs(groups) do
    info = named(info)
    if info['name'] == group then
      return info['last-delivered-id']
    end
  end
end

-- Let what waits behind a place be read again with the rest, and not wait as well.
local function wait_no_more(waiting, attempts, place)
  for _, position in ipairs(redis.call('ZRANGE', waiting, 0, -1)) do
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
local function forget(ids, expiry, time, most)
  local over = redis.call('ZRANGEBYSCORE', expiry, '-inf', time, 'LIMIT', 0, most)
  if #over > 0 then
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
