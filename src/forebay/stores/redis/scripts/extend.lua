-- Renew the leases that the consumer still holds; return a 1 or 0 for each.
-- KEYS  stream
-- ARGV  group, consumer, positions
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local kept = {}
for i = 3, #ARGV do
  if held(stream, group, consumer, ARGV[i]) then
    redis.call('XCLAIM', stream, group, consumer, 0, ARGV[i], 'JUSTID')
    kept[#kept + 1] = 1
  else
    kept[#kept + 1] = 0
  end
end
return kept
