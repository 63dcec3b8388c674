-- Correct the counts of dead letters, after others removed or added some; 0 where there are others by now.
-- KEYS  dead_letter, dead_counts
-- ARGV  how many dead letters were counted, then each group and its count, with '*' for all
local dead_letter, counts = KEYS[1], KEYS[2]
need({'XLEN', dead_letter, 'DEL', counts, 'HSET', counts})
if redis.call('XLEN', dead_letter) ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('DEL', counts)
redis.call('HSET', counts, unpack(ARGV, 2))
return 1
