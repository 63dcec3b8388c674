-- Make a group; 0 where it exists already.
-- KEYS  stream, finished, waiting, attempts
-- ARGV  group, start (in full, or $ for the end)
-- Looked at first, because a server without room refuses to create even what is there.
local stream, finished, group, start = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if last_delivered(stream, group) then
  return 0
end
-- Where it is known, the group was there and is lost: others may have held what stands before `start`.
local known = redis.call('GET', finished)
if known and (start == '$' or before(known, start)) then
  start = known
end
local made = redis.pcall('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
if made.err then
  return made
end
local place = last_delivered(stream, group)
local info = named(redis.call('XINFO', 'STREAM', stream))
local first = info['first-entry'] and info['first-entry'][1]
if info['entries-added'] and (not first or before(place, first)) then
  -- What has left the stream by now the group does not miss. Servers before 7 count no reads.
  redis.call('XGROUP', 'SETID', stream, group, place, 'ENTRIESREAD', info['entries-added'] - info['length'])
end
wait_no_more(KEYS[3], KEYS[4], place)
redis.pcall('SET', finished, place)
return 1
