-- Lease unread entries, unless another consumer of the group holds anything, or what was given back comes first.
-- KEYS  stream, waiting
-- ARGV  group, consumer, limit
need({'XPENDING', KEYS[1], 'ZRANGEBYSCORE', KEYS[2], 'TIME', false, 'XREADGROUP GROUP g c STREAMS', KEYS[1]})
if others_hold(KEYS[1], ARGV[1], ARGV[2])
  or #redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now(), 'LIMIT', 0, 1) > 0 then
  return false
end
return redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
