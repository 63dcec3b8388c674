-- The server's wall clock was set: let the stream's own time go on as before, and all leases begin anew.
-- KEYS  stream
-- ARGV  offset in force, offset to put in its place, the time in ms up to which others may have watched the clock
-- Returns 'done', 'other' where somebody else has changed the offset, 'denied', or
-- 'none' where another store has watched that clock beyond that time, without a step
local stream, before, after, until_when = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
need({'HSET', clock, 'EXISTS', stream, 'XINFO GROUPS', stream, 'XPENDING', stream, 'XCLAIM', stream})
if offset() ~= before then
  return 'other'
end
local back = tonumber(after) > tonumber(before)
if not back and tonumber(kept('seen') or 0) > until_when then
  return 'none'
end
local noted = redis.pcall('HSET', clock, 'offset', after, 'since', string.format('%.0f', wall()))
if type(noted) == 'table' then
  return 'denied'
end
if back and redis.call('EXISTS', stream) == 1 then
  -- Leases from before the step are from the future now: the server takes them for new until it has come.
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local name = named(group)['name']
    local from = '-'
    repeat
      local found = redis.call('XPENDING', stream, name, from, '+', 1000)
      for _, row in ipairs(found) do
        if row[3] == 0 then
          redis.call('XCLAIM', stream, name, row[2], 0, row[1], 'IDLE', 0, 'JUSTID')
        end
        from = '(' .. row[1]
      end
    until #found < 1000
  end
end
return 'done'
