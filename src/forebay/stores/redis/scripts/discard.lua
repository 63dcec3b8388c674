-- Remove dead letters for good; return how many there were.
-- KEYS  dead_letter, dead_counts
-- ARGV  ids of dead letters
local removed = 0
redis.call('HLEN', KEYS[2])
for _, id in ipairs(ARGV) do
  local fields = fields_at(KEYS[1], id)
  if fields then
    if #fields >= 10 and fields[#fields - 5] == 'group' then
      redis.call('HINCRBY', KEYS[2], fields[#fields - 4], -1)
    end
    removed = removed + redis.call('XDEL', KEYS[1], id)
  end
end
return removed
