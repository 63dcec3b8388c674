-- Remove dead letters for good, and what the stream and their groups remember of their events' ids; return how many
-- there were.
-- KEYS  dead_letter, dead_counts, ids, ids_expiry, handled of any group, without its name
-- ARGV  ids of dead letters
local dead_letter, counts, ids, expiry, handled = unpack(KEYS)
need({'XRANGE', dead_letter, 'XDEL', dead_letter, 'HLEN', counts, 'HGET', counts, 'HSET', counts,
  'HLEN', ids, 'HGET', ids, 'HDEL', ids, 'ZCARD', expiry, 'ZREM', expiry,
  'ZCARD', handled, 'ZREM', handled})
-- Reads come first: a key of the wrong type must be met before anything is written.
redis.call('HLEN', counts)
redis.call('HLEN', ids)
redis.call('ZCARD', expiry)
local found = {}
for _, letter in ipairs(ARGV) do
  local fields = fields_at(dead_letter, letter)
  if fields then
    local group = #fields >= 10 and fields[#fields - 5] == 'group' and fields[#fields - 4]
    if group then
      redis.call('ZCARD', handled .. group)
    end
    found[#found + 1] = {letter, group, named(fields)['id']}
  end
end

local removed = 0
for _, each in ipairs(found) do
  local letter, group, id = each[1], each[2], each[3]
  -- One that is named twice is removed once.
  if redis.call('XDEL', dead_letter, letter) == 1 then
    removed = removed + 1
    count_up(counts, '*', -1)
    -- An event that is only scheduled under this id is another one.
    local known = id and redis.call('HGET', ids, id)
    if known and known ~= '' then
      redis.call('HDEL', ids, id)
      redis.call('ZREM', expiry, id)
    end
    if group then
      count_up(counts, group, -1)
      if id then
        redis.call('ZREM', handled .. group, id)
      end
    end
  end
end
return removed
