-- Remove dead letters for good; return how many there were. Their events' ids are forgotten, by the stream and by the
-- letters' groups.
-- KEYS  dead_letter, dead_counts, ids, ids_expiry, the prefix of the groups' handled keys
-- ARGV  ids of dead letters
local dead_letter, counts, ids, expiry, handled = unpack(KEYS)
need({'XRANGE', dead_letter, 'XDEL', dead_letter, 'HLEN', counts, 'HGET', counts, 'HSET', counts,
  'HLEN', ids, 'HGET', ids, 'HDEL', ids, 'ZCARD', expiry, 'ZREM', expiry,
  'ZCARD', handled, 'ZREM', handled})
-- Reads come first: a key of the wrong type raises before the first write.
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
  -- A letter that is named twice is removed once.
  if redis.call('XDEL', dead_letter, letter) == 1 then
    removed = removed + 1
    count_up(counts, '*', -1)
    -- Without a position the id belongs to a scheduled event, which is another one.
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
