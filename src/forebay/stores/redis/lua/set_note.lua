-- Set or remove a note; 0 if it is not as expected.
-- KEYS  notes
-- ARGV  name, 'any', 'none' or 'just', the value expected with 'just', then 'remove', or 'keep' and the value
local notes, name = KEYS[1], ARGV[1]
need({'HGET', notes, ARGV[4] == 'remove' and 'HDEL' or 'HSET', notes})
local now = redis.call('HGET', notes, name)
if (ARGV[2] == 'none' and now) or (ARGV[2] == 'just' and now ~= ARGV[3]) then
  return 0
end
if ARGV[4] == 'remove' then
  redis.call('HDEL', notes, name)
else
  redis.call('HSET', notes, name, ARGV[5])
end
return 1
