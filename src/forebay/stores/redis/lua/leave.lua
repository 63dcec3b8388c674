-- Remove a group with its pending entries.
-- KEYS  stream, waiting, attempts, handled, finished, progress
-- ARGV  group
need({'EXISTS', KEYS[1], 'XACK', KEYS[1], 'XGROUP DESTROY', KEYS[1]})
for i = 2, #KEYS do
  need({'DEL', KEYS[i]})
end
begin_without_memory(KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
end
redis.call('DEL', unpack(KEYS, 2))
return redis.status_reply('OK')
