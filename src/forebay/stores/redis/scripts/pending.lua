-- What a group has begun and not finished, by position.
-- KEYS  stream, waiting, attempts
-- ARGV  group, after, limit, then those that wait, for where they are too many to be looked for here
-- Returns for each: position, consumer or false, attempt, failures, idle in ms or due in ms from now, last failure or '';
-- false where too many wait
local stream, waiting, attempts = KEYS[1], KEYS[2], KEYS[3]
local group, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
need({'XPENDING', stream, 'ZCARD', waiting, 'ZRANGE', waiting, 'ZSCORE', waiting, 'HGET', attempts, 'TIME', false})
local time = now()

local rows = {}
for _, row in ipairs(redis.call('XPENDING', stream, group, '(' .. after, '+', limit)) do
  local _, failures, last = attempts_of(attempts, row[1])
  rows[#rows + 1] = {row[1], row[2], row[4], failures, row[3], last}
end
local waits = {unpack(ARGV, 4)}
if #waits == 0 then
  if redis.call('ZCARD', waiting) > 5000 then
    return false
  end
  waits = positions_in(redis.call('ZRANGE', waiting, 0, -1))
end
for _, position in ipairs(waits) do
  local due = before(after, position) and redis.call('ZSCORE', waiting, position)
  if due then
    local count, failures, last = attempts_of(attempts, position)
    rows[#rows + 1] = {position, false, count, failures, math.floor(due - time), last}
  end
end
table.sort(rows, function(a, b) return before(a[1], b[1]) end)
return {unpack(rows, 1, math.min(limit, #rows))}
