-- Ids that are remembered, by the time until which they are.
-- KEYS  the sorted set of ids, and for those of a stream the hash of their positions
-- ARGV  the id to begin behind or '', limit
-- Returns for each: id, ms left, position or false
local expiry, ids = KEYS[1], KEYS[2]
need({'ZCOUNT', expiry, 'ZRANK', expiry, 'ZRANGE', expiry, 'TIME', false})
if ids then
  need({'HGET', ids})
end
local time = wall()
local first = redis.call('ZCOUNT', expiry, '-inf', time)
-- Those whose time is over go first: where this one is gone, so are all before it.
local rank = ARGV[1] ~= '' and redis.call('ZRANK', expiry, ARGV[1])
if rank then
  first = math.max(first, rank + 1)
end
local rows = {}
local found = redis.call('ZRANGE', expiry, first, first + ARGV[2] - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  rows[#rows + 1] = {found[i], found[i + 1] - time, ids and redis.call('HGET', ids, found[i]) or false}
end
return rows
