-- Take over entries whose leases have expired.
-- KEYS  stream, attempts, waiting
-- ARGV  group, consumer, idle in ms, limit, cursor (a position or '-'), how many pending entries to look at,
--       '1' for an ordered reader, how many due entries it sorts at most,
--       ms until an entry that has left the stream is due again,
--       'hold' if the caller has just begun to watch the clock, 'sure' if it has watched it for long, or 'watch'
--       (`Pace.trust`),
--       ms after which a 'sure' caller records again that it watches the clock
-- Returns the stream's time in ms and its offset, the next cursor, then for each entry: position, fields or false,
-- number of the lease, attempt, failures, last failure or ''; then the same for the waiting entries that an ordered
-- reader takes because they come first
local stream, attempts, waiting = unpack(KEYS)
local group, consumer, idle, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local cursor, page, ordered, most = ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1', tonumber(ARGV[8])
local vanished_ms, trust, watched_ms = tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11])
need({'XPENDING', stream, 'XRANGE', stream, 'XCLAIM', stream, 'XACK', stream, 'HSET', clock,
  'HLEN', attempts, 'HGET', attempts})
if ordered then
  need({'ZRANGEBYSCORE', waiting, 'ZREM', waiting, 'ZADD', waiting})
end
-- Reads come first: a key of the wrong type raises before the first write.
redis.call('XPENDING', stream, group)
redis.call('HLEN', attempts)
-- `shows` is the stream's own time; `time` leaves out a step of the clock that no store has noticed yet.
local time, shows = now(), shown()
local due = {}
if ordered then
  due = positions_in(redis.call('ZRANGEBYSCORE', waiting, '-inf', time, 'LIMIT', 0, most))
  table.sort(due, before)
end
local since, seen = kept('since'), kept('seen')
begin_without_memory(stream, group)

if trust == 'sure' and time == shows and math.abs(wall() - (seen or 0)) > watched_ms then
  -- For stores that were frozen while their clock ran on: to them the server's clock seems to have been set.
  redis.call('HSET', clock, 'seen', string.format('%.0f', wall()))
end
-- How long leases may have lasted: only the time since the clock was set is certain.
local spare = math.max(0, shows - time)
idle = idle + spare
local may_claim = wall() - (since or 0) >= idle
if trust == 'hold' and seen then
  -- Others who watch the clock may be about to notice that it was set.
  may_claim = false
end

if ordered then
  -- The group belongs to one consumer for as long as that holds a live lease.
  cursor = '-'
  local from = '-'
  repeat
    local found = redis.call('XPENDING', stream, group, from, '+', page)
    for _, row in ipairs(found) do
      if row[2] ~= consumer and (row[3] < idle or not may_claim) then
        return {shows, offset(), '-', {}, {}}
      end
      from = '(' .. row[1]
    end
  until #found < page
end

local found = may_claim and redis.call('XPENDING', stream, group, cursor, '+', page) or {}
-- `claimed` had an expired lease, and `returned` was waiting. Both are taken in one order, by position.
local claimed, returned = {}, {}
local next_due = 1
local last = '-'
for _, row in ipairs(found) do
  if row[3] >= idle then
    while due[next_due] and before(due[next_due], row[1]) and #claimed + #returned < limit do
      returned[#returned + 1] =
        lease_waiting(stream, waiting, attempts, group, consumer, due[next_due], time, vanished_ms)
      next_due = next_due + 1
    end
  end
  if #claimed + #returned >= limit then
    break
  end
  last = '(' .. row[1]
  if row[3] >= idle then
    local position, number = row[1], row[4] + 1
    local fields = fields_at(stream, position)
    if fields then
      redis.call('XCLAIM', stream, group, consumer, 0, position, 'RETRYCOUNT', number, 'JUSTID')
    end
    local _, failures, lease_offset, last_failure = history_of(attempts, position)
    claimed[#claimed + 1] = {position, fields, number, attempt_of(number, lease_offset), failures, last_failure}
  end
end
if #found < page and #claimed + #returned < limit then
  last = '-'
end
return {shows, offset(), last, claimed, returned}
