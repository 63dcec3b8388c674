-- Append records, all or none; return their positions.
-- KEYS  stream, ids, ids_expiry
-- ARGV  window in ms or '', since (a position) or '',
--       then for each record: its id, the number of its names and values, these
local stream, ids, expiry = KEYS[1], KEYS[2], KEYS[3]
local window, since = tonumber(ARGV[1]), ARGV[2]
local PAGE = 1000
need({'XADD', stream, 'TIME', false})
if window then
  need({'HGET', ids, 'HSET', ids, 'ZRANGEBYSCORE', expiry, 'ZSCORE', expiry, 'ZADD', expiry})
end
if since ~= '' then
  need({'XRANGE', stream})
end

-- Reads come first: a key of the wrong type raises before the first write.
local seen = {}
local time = wall()
if window then
  expire_ids(ids, expiry, time)
end
if since ~= '' then
  local wanted = {}
  local i = 3
  while i <= #ARGV do
    wanted[ARGV[i]] = ARGV[i] ~= ''
    i = i + 2 + ARGV[i + 1]
  end
  local after = '(' .. since
  repeat
    local page = redis.call('XRANGE', stream, after, '+', 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      local id = named(entry[2])['id']
      if id and wanted[id] then
        seen[id] = seen[id] or entry[1]
      end
      after = '(' .. entry[1]
    end
  until #page < PAGE
end

local positions, remembered = {}, {}
local i = 3
while i <= #ARGV do
  local id, count = ARGV[i], tonumber(ARGV[i + 1])
  local position = seen[id]
  local remembers = window and id ~= ''
  if not position and remembers then
    local known = redis.call('HGET', ids, id)
    local ends = known and redis.call('ZSCORE', expiry, id)
    if ends and tonumber(ends) > time and (known == '' or is_position(known)) then
      position = known
    end
  end
  if not position then
    position = redis.call('XADD', stream, '*', unpack(ARGV, i + 2, i + 1 + count))
  end
  if remembers then
    seen[id] = position
    remembered[#remembered + 1] = id
  end
  positions[#positions + 1] = position
  i = i + 2 + count
end
-- Last: the stream may be a key of the wrong type.
for _, id in ipairs(remembered) do
  redis.call('HSET', ids, id, seen[id])
  redis.call('ZADD', expiry, time + window, id)
end
return positions
