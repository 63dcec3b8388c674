-- Remove the consumers that hold nothing and have been idle for long. A consumer that comes back is made again.
-- KEYS  stream
-- ARGV  group, ms after which an idle consumer is removed
local stream, group, forget_after = KEYS[1], ARGV[1], tonumber(ARGV[2])
if may('XINFO CONSUMERS', stream) and may('XGROUP DELCONSUMER', stream) then
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    consumer = named(consumer)
    if consumer['pending'] == 0 and consumer['idle'] > forget_after then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer['name'])
    end
  end
end
return redis.status_reply('OK')
