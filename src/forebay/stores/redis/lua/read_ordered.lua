-- Lease unread entries of streams, in order. A stream is left out while another consumer of the group holds an entry
-- of it, or while an earlier entry waits.
-- KEYS  for each stream: stream, waiting
-- ARGV  group, consumer, limit for each stream, how many waiting members to look at
-- Returns a reply as of XREADGROUP
local group, consumer, limit, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local free = {}
-- All groups are asked for first: a group that does not exist raises before anything is leased.
for i = 1, #KEYS, 2 do
  local stream, waiting = KEYS[i], KEYS[i + 1]
  need({'XPENDING', stream, 'ZRANGE', waiting, 'XREADGROUP GROUP g c STREAMS', stream})
  if not others_hold(stream, group, consumer) and #positions_in(redis.call('ZRANGE', waiting, 0, most - 1)) == 0 then
    free[#free + 1] = stream
  end
end
local found = {}
for _, stream in ipairs(free) do
  local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', limit, 'STREAMS', stream, '>')
  found[#found + 1] = read and read[1] or nil
end
return found
