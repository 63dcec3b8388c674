-- Append dead letters again, each for its group only, and remove them; return how many.
-- KEYS  stream, dead_letter, dead_counts
-- ARGV  ids of dead letters
local stream, dead_letter, counts = KEYS[1], KEYS[2], KEYS[3]
need({'XLEN', stream, 'XADD', stream, 'XRANGE', dead_letter, 'XDEL', dead_letter,
  'HLEN', counts, 'HGET', counts, 'HSET', counts})
-- Reads come first: a key of the wrong type raises before the first write.
redis.call('XLEN', stream)
redis.call('HLEN', counts)
-- A full server takes the writes below only after one that cannot grow a key. No entry has this position.
redis.call('XDEL', dead_letter, '0-0')
local moved = 0
for _, id in ipairs(ARGV) do
  local fields = fields_at(dead_letter, id)
  local size = fields and #fields or 0
  -- Only letters that dead_letter.lua wrote name their group.
  if size >= 10 and fields[size - 9] == 'error' and fields[size - 5] == 'group' then
    local group = fields[size - 4]
    local last = size - 10
    if last >= 2 and fields[last - 1] == 'traceback' then
      last = last - 2
    end
    if last >= 2 and fields[last - 1] == 'only' then
      last = last - 2
    end
    fields[last + 1], fields[last + 2] = 'only', group
    redis.call('XADD', stream, '*', unpack(fields, 1, last + 2))
    count_up(counts, group, -1)
    count_up(counts, '*', -1)
    redis.call('XDEL', dead_letter, id)
    moved = moved + 1
  end
end
return moved
