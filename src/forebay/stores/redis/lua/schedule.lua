-- Keep records until they are due.
-- KEYS  stream, scheduled, moments, ids, ids_expiry
-- ARGV  delay in ms, moment in ms or '', window in ms or '',
--       then for each record: its id, the number of its names and values, these
-- Returns the stream's time in ms and its offset
local stream, scheduled, moments, ids, expiry = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
need({'TIME', false, 'ZCARD', scheduled, 'ZCARD', moments})
if ARGV[2] == '' then
  need({'ZADD', scheduled})
else
  need({'ZADD', moments, 'XADD', stream})
end
if ARGV[3] ~= '' then
  need({'HEXISTS', ids, 'HSET', ids, 'ZRANGEBYSCORE', expiry, 'ZSCORE', expiry, 'ZADD', expiry})
end
local time, unix = now(), wall()
local moment, window = tonumber(ARGV[2]), tonumber(ARGV[3])
local arrival = redis.call('TIME')
-- A moment in the past is now: the record is appended at once, without a consumer.
local at_once = moment and moment <= unix

redis.call('ZCARD', scheduled)
redis.call('ZCARD', moments)
if window then
  expire_ids(ids, expiry, unix)
end
local i = 4
while i <= #ARGV do
  local id, count = ARGV[i], tonumber(ARGV[i + 1])
  local remembers = window and id ~= ''
  local ends = remembers and redis.call('HEXISTS', ids, id) == 1 and redis.call('ZSCORE', expiry, id)
  if not (ends and tonumber(ends) > unix) then
    -- The place makes the member unique, and sorts the members due in the same ms by arrival.
    local place = string.format('%012d%06d%08d', arrival[1], arrival[2], i)
    local position = ''
    if at_once then
      position = redis.call('XADD', stream, '*', unpack(ARGV, i + 2, i + 1 + count))
    else
      local packed = cmsgpack.pack({place, id, unpack(ARGV, i + 2, i + 1 + count)})
      redis.call('ZADD', moment and moments or scheduled, moment or time + ARGV[1], packed)
    end
    if remembers then
      redis.call('HSET', ids, id, position)
    end
  end
  if remembers then
    redis.call('ZADD', expiry, unix + window, id)
  end
  i = i + 2 + count
end
return {shown(), offset()}
