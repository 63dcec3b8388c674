-- What is scheduled, by its time.
-- KEYS  scheduled or moments
-- ARGV  'now' or 'wall', the clock of that key, time and place of the one to begin behind, or '' and '', limit
-- Returns for each: time, place, ms until it is due, fields
local after, place, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
need({'ZRANGEBYSCORE', KEYS[1], 'TIME', false})
local time = ARGV[1] == 'wall' and wall() or now()
local rows = {}
local offset = 0
repeat
  local page = redis.call('ZRANGEBYSCORE', KEYS[1], after == '' and '-inf' or after, '+inf', 'WITHSCORES',
    'LIMIT', offset, 500)
  for i = 1, #page, 2 do
    local event = unpacked(page[i])
    if not event then
      -- Not forebay's: due puts it aside.
    elseif place == '' or page[i + 1] ~= after then
      rows[#rows + 1] = {page[i + 1], event[1], page[i + 1] - time, {unpack(event, 3)}}
    elseif event[1] == place then
      -- Those due in the same ms begin behind it.
      place = ''
    end
    if #rows == limit then
      return rows
    end
  end
  offset = offset + 500
until #page < 1000
return rows
