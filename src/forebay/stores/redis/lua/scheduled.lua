-- Scheduled events, by their time.
-- KEYS  scheduled or moments
-- ARGV  'now' or 'wall', the clock of that key, time and place of the event to begin after, or '' and '', limit
-- Returns for each: time, place, ms until it is due, fields
local PAGE = 500
local after, place, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
need({'ZRANGEBYSCORE', KEYS[1], 'TIME', false})
local time = ARGV[1] == 'wall' and wall() or now()
local rows = {}
local offset = 0
repeat
  local page = redis.call('ZRANGEBYSCORE', KEYS[1], after == '' and '-inf' or after, '+inf', 'WITHSCORES',
    'LIMIT', offset, PAGE)
  for i = 1, #page, 2 do
    local event = unpacked(page[i])
    if not event then
      -- Not forebay's: append_due.lua puts it aside.
    elseif place == '' or page[i + 1] ~= after then
      rows[#rows + 1] = {page[i + 1], event[1], page[i + 1] - time, {unpack(event, 3)}}
    elseif event[1] == place then
      -- Events due in the same ms begin after it.
      place = ''
    end
    if #rows == limit then
      return rows
    end
  end
  offset = offset + PAGE
until #page < 2 * PAGE
return rows
