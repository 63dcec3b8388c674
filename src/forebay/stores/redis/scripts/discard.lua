-- Remove dead letters for good, and what the stream and their groups remember of their events' ids; return how many
-- there were.
-- KEYS  dead_letter, dead_counts, ids, ids_expiry, handled of any group, without its name
-- ARGV  ids of dead letters
local dead_letter, counts, ids, expiry, handled = unpack(KEYS)
need({'XRANGE', dead_letter, 'XDEL', dead_letter, 'HLEN', counts, 'HGET', counts, 'HSET', counts,
  'HLEN', ids, 'HGET', ids, 'HDEL', ids, 'ZREM', expiry, 'ZREM', handled})
local removed = 0
redis.call('HLEN', counts)
redis.call('HLEN', ids)
for _, letter in ipairs(ARGV) do
  local fields = fields_at(dead_letter, letter)
  if fields then
    removed = removed + redis.call('XDEL', dead_letter, letter)
    count_up(counts, '*', -1)
    local id = named(fields)['id']
    -- An event that is only scheduled under this id is another one.
    local known = id and redis.call('HGET', ids, id)
    if known and known ~= '' then
      redis.call('HDEL', ids, id)
      redis.call('ZREM', expiry, id)
    end
    if #fields >= 10 and fields[#fields - 5] == 'group' then
      local group = fields[#fields - 4]
      count_up(counts, group, -1)
      if id then
        redis.call('ZREM', handled .. group, id)
      end
    end
  end
end
return removed
