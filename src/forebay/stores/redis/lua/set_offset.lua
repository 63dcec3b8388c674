-- The server's wall clock was set: keep the stream's own time going as before, and renew all leases.
-- KEYS  stream
-- ARGV  offset in force, the new offset, the time in ms up to which other stores may have watched the clock
-- Returns 'done', 'other' if another store has changed the offset, 'denied', or
-- 'none' if another store has watched that clock beyond that time, without a step
local stream, before, after, until_when = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
need({'HSET', clock, 'EXISTS', stream, 'XINFO GROUPS', stream, 'XPENDING', stream, 'XCLAIM', stream})
local PAGE = 1000
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
  -- Leases from before the step lie in the future now: until then the server would take them for new.
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local name = named(group)['name']
    local from = '-'
    repeat
      local found = redis.call('XPENDING', stream, name, from, '+', PAGE)
      for _, row in ipairs(found) do
        if row[3] == 0 then
          redis.call('XCLAIM', stream, name, row[2], 0, row[1], 'IDLE', 0, 'JUSTID')
        end
        from = '(' .. row[1]
      end
    until #found < PAGE
  end
end
return 'done'
