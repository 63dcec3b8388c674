-- Correct the counts of dead letters after other programs removed or added some; 0 if they have changed again.
-- KEYS  dead_letter, dead_counts
-- ARGV  the number of dead letters counted, then each group and its count, with '*' for all
local dead_letter, counts = KEYS[1], KEYS[2]
need({'XLEN', dead_letter, 'DEL', counts, 'HSET', counts})
if redis.call('XLEN', dead_letter) ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('DEL', counts)
redis.call('HSET', counts, unpack(ARGV, 2))
return 1
