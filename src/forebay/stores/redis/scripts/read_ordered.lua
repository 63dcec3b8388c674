-- Lease unread entries, unless another consumer of the group holds an entry, or an entry waits.
-- KEYS  stream, waiting
-- ARGV  group, consumer, limit
need({'XPENDING', KEYS[1], 'ZCARD', KEYS[2], 'XREADGROUP GROUP g c STREAMS', KEYS[1]})
if others_hold(KEYS[1], ARGV[1], ARGV[2])
  or redis.call('ZCARD', KEYS[2]) > 0 then
  return false
end
return redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
