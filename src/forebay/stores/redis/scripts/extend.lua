-- Renew the leases that the consumer still holds; return a 1 or 0 for each.
-- KEYS  stream, progress
-- ARGV  group, consumer, positions
local stream, progress, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
need({'XPENDING', stream, 'XCLAIM', stream, 'HLEN', progress, 'HGET', progress, 'HSET', progress})
redis.call('HLEN', progress)
local kept = {}
for i = 3, #ARGV do
  if held(stream, group, consumer, ARGV[i]) then
    if #redis.call('XCLAIM', stream, group, consumer, 0, ARGV[i], 'JUSTID') == 0 then
      -- The entry has left the stream, and the server forgets it: nobody else will get it.
      count_up(progress, 'finished', 1)
    end
    kept[#kept + 1] = 1
  else
    kept[#kept + 1] = 0
  end
end
return kept
