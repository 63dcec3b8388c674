-- Keep records until their time comes.
-- KEYS  scheduled, ids, ids_expiry
-- ARGV  delay in ms, window in ms or '', then for each record: its id, how many names and values follow, these
local scheduled, ids, expiry = KEYS[1], KEYS[2], KEYS[3]
local time = now()
local due, window = time + ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')

redis.call('ZCARD', scheduled)
if window then
  forget(ids, expiry, time, 1000)
end
local i = 3
while i <= #ARGV do
  local id, count = ARGV[i], tonumber(ARGV[i + 1])
  local remembers = window and id ~= ''
  local ends = remembers and redis.call('HEXISTS', ids, id) == 1 and redis.call('ZSCORE', expiry, id)
  if not (ends and tonumber(ends) > time) then
    -- What begins with its place in time is unique, and among those due in the same ms the first comes first.
    local place = string.format('%012d%06d%08d', clock[1], clock[2], i)
    redis.call('ZADD', scheduled, due, cmsgpack.pack({place, id, unpack(ARGV, i + 2, i + 1 + count)}))
    if remembers then
      redis.call('HSET', ids, id, '')
    end
  end
  if remembers then
    redis.call('ZADD', expiry, time + window, id)
  end
  i = i + 2 + count
end
return redis.status_reply('OK')
