-- The group's pending entries, leased and waiting, by position.
-- KEYS  stream, waiting, attempts
-- ARGV  group, after, limit, how many waiting entries to sort at most, then the waiting entries, if there are more
-- Returns for each: position, consumer or false, attempt, failures, idle in ms or due in ms from now, last failure or '';
-- false if too many entries wait; none if the group does not exist
local stream, waiting, attempts = KEYS[1], KEYS[2], KEYS[3]
local group, after, limit, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
need({'XPENDING', stream, 'ZCARD', waiting, 'ZRANGE', waiting, 'ZSCORE', waiting, 'HGET', attempts, 'TIME', false})
local time = now()
if not is_group(stream, group) then
  return {}
end

local rows = {}
for _, row in ipairs(redis.call('XPENDING', stream, group, '(' .. after, '+', limit)) do
  local _, failures, lease_offset, last = history_of(attempts, row[1])
  rows[#rows + 1] = {row[1], row[2], attempt_of(row[4], lease_offset), failures, row[3], last}
end
local waits = {unpack(ARGV, 5)}
if #waits == 0 then
  if redis.call('ZCARD', waiting) > most then
    return false
  end
  waits = positions_in(redis.call('ZRANGE', waiting, 0, -1))
end
for _, position in ipairs(waits) do
  local due = before(after, position) and redis.call('ZSCORE', waiting, position)
  if due then
    local count, failures, _, last = history_of(attempts, position)
    rows[#rows + 1] = {position, false, count, failures, math.floor(due - time), last}
  end
end
table.sort(rows, function(a, b) return before(a[1], b[1]) end)
return {unpack(rows, 1, math.min(limit, #rows))}
