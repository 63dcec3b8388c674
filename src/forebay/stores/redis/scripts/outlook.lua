-- The work that a group has besides reading on.
-- KEYS  stream, scheduled, moments, waiting
-- ARGV  group, consumer
-- Returns the stream's time in ms and its offset, then false if there is no such group; or the ms until the next
-- scheduled record and the next waiting entry are due, each false if there is none, 1 if another consumer holds an
-- entry, 1 if entries may be unread
local stream, scheduled, moments, waiting = unpack(KEYS)
need({'TIME', false, 'ZRANGE', scheduled, 'ZRANGE', moments, 'ZRANGE', waiting, 'EXISTS', stream,
  'XINFO GROUPS', stream, 'XINFO STREAM', stream, 'XPENDING', stream})
local time, shows = now(), shown()

-- Milliseconds until the first member of a sorted set is due; false if it has none.
local function until_first(key, moment)
  local score = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  return score and string.format('%.0f', score - moment)
end

local place = last_delivered(stream, ARGV[1])
if not place then
  return {shows, offset(), false}
end
local after, at = until_first(scheduled, time), until_first(moments, wall())
local soonest = after and at and (tonumber(after) < tonumber(at) and after or at) or after or at or false
local last = named(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
return {shows, offset(), {soonest, until_first(waiting, time) or false,
  others_hold(stream, ARGV[1], ARGV[2]) and 1 or 0, before(place, last) and 1 or 0}}
