-- Remove a group with all it has pending and waiting.
-- KEYS  stream, waiting, attempts, handled, finished
-- ARGV  group
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return redis.status_reply('OK')
