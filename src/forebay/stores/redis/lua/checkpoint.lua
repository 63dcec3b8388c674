-- Note the position up to which the group has finished everything, for `join`, if the group should be lost.
-- KEYS  stream, waiting, finished
-- ARGV  group, how many waiting entries to look at: with more of them, nothing is noted
local stream, waiting, finished = unpack(KEYS)
local group, most = ARGV[1], tonumber(ARGV[2])
need({'XPENDING', stream, 'EXISTS', stream, 'XINFO GROUPS', stream, 'XACK', stream,
  'ZCARD', waiting, 'ZRANGE', waiting, 'GET', finished, 'SET', finished})
-- Reads come first: a key of the wrong type raises before the first write.
local first_pending = redis.call('XPENDING', stream, group)[2]
local noted = redis.call('GET', finished)
if redis.call('ZCARD', waiting) <= most then
  local open = positions_in(redis.call('ZRANGE', waiting, 0, -1))
  open[#open + 1] = first_pending or nil
  table.sort(open, before)
  local place = open[1] and just_before(open[1]) or last_delivered(stream, group)
  if place ~= noted then
    begin_without_memory(stream, group)
    redis.call('SET', finished, place)
  end
end
return redis.status_reply('OK')
