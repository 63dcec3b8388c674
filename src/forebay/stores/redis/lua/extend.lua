-- Renew the leases that the consumer still holds; return a 1 or 0 for each.
-- KEYS  stream, progress
-- ARGV  group, consumer, then for each entry: position, number of the lease
local stream, progress, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
need({'XPENDING', stream, 'XCLAIM', stream, 'HLEN', progress, 'HGET', progress, 'HSET', progress})
redis.call('HLEN', progress)
local kept = {}
for i = 3, #ARGV, 2 do
  local position = ARGV[i]
  if holds(stream, group, consumer, position, ARGV[i + 1]) then
    if #redis.call('XCLAIM', stream, group, consumer, 0, position, 'JUSTID') == 0 then
      -- The entry has left the stream, and the server drops its lease: no other consumer will get it.
      count_up(progress, 'finished', 1)
    end
    kept[#kept + 1] = 1
  else
    kept[#kept + 1] = 0
  end
end
return kept
