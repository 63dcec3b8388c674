-- What a group has begun and not finished, by position.
-- KEYS  stream, waiting, attempts
-- ARGV  group, after, limit
-- Returns for each: position, consumer or false, attempt, failures, idle in ms or due in ms from now, last failure or ''
local stream, waiting, attempts = KEYS[1], KEYS[2], KEYS[3]
local group, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
need({'XPENDING', stream, 'ZRANGE', waiting, 'HGET', attempts, 'TIME', false})
local time = now()

local rows = {}
for _, row in ipairs(redis.call('XPENDING', stream, group, '(' .. after, '+', limit)) do
  local _, failures, last = noted(attempts, row[1])
  rows[#rows + 1] = {row[1], row[2], row[4], failures, row[3], last}
end
local entries = redis.call('ZRANGE', waiting, 0, -1, 'WITHSCORES')
for i = 1, #entries, 2 do
  if before(after, entries[i]) then
    local count, failures, last = noted(attempts, entries[i])
    rows[#rows + 1] = {entries[i], false, count, failures, entries[i + 1] - time, last}
  end
end
table.sort(rows, function(a, b) return before(a[1], b[1]) end)
return {unpack(rows, 1, math.min(limit, #rows))}
