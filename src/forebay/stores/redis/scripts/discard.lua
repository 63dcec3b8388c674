-- Remove dead letters for good; return how many there were.
-- KEYS  dead_letter, dead_counts
-- ARGV  ids of dead letters
local dead_letter, counts = KEYS[1], KEYS[2]
need({'XRANGE', dead_letter, 'XDEL', dead_letter, 'HLEN', counts, 'HGET', counts, 'HSET', counts})
local removed = 0
redis.call('HLEN', counts)
for _, id in ipairs(ARGV) do
  local fields = fields_at(dead_letter, id)
  if fields then
    removed = removed + redis.call('XDEL', dead_letter, id)
    if #fields >= 10 and fields[#fields - 5] == 'group' then
      count_up(counts, fields[#fields - 4], -1)
    end
  end
end
return removed
