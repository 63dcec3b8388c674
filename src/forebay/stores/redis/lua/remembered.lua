-- Remembered ids, by the time of their expiry.
-- KEYS  the sorted set of ids, and for a stream's ids the hash of their positions
-- ARGV  the id to begin after or '', limit
-- Returns for each: id, ms left, position or false
local expiry, ids = KEYS[1], KEYS[2]
need({'ZCOUNT', expiry, 'ZRANK', expiry, 'ZRANGE', expiry, 'TIME', false})
if ids then
  need({'HGET', ids})
end
local time = wall()
local first = redis.call('ZCOUNT', expiry, '-inf', time)
-- Expired ids are removed first: if this one is gone, so are all before it.
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
