-- Remove a batch of the oldest entries; return how many, and how many of them a group had not finished.
-- KEYS  stream; the waiting keys of its groups are known only here, and share its hash tag
-- ARGV  max_length or '', max_age in ms or '', '1' to force, batch
local stream = KEYS[1]
local max_length, max_age, force, batch = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
if redis.call('EXISTS', stream) == 0 then
  return {0, 0}
end

-- All groups have finished what stands before `unfinished` and not behind `delivered`.
local groups, delivered, unfinished = {}, nil, nil
for i, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  info = named(info)
  local group = {name = info['name'], last = info['last-delivered-id']}
  group.waiting = '{' .. stream .. '}:waiting:' .. group.name
  groups[i] = group
  if not delivered or before(group.last, delivered) then
    delivered = group.last
  end
  local open = redis.call('ZRANGE', group.waiting, 0, -1)
  open[#open + 1] = redis.call('XPENDING', stream, group.name)[2] or nil
  for _, position in ipairs(open) do
    if not unfinished or before(position, unfinished) then
      unfinished = position
    end
  end
end

local function is_finished(position)
  return not (delivered and before(delivered, position)) and not (unfinished and not before(position, unfinished))
end

local function is_dropped(position)
  for _, group in ipairs(groups) do
    if before(group.last, position)
      or redis.call('ZSCORE', group.waiting, position)
      or #redis.call('XPENDING', stream, group.name, position, position, 1) > 0 then
      return true
    end
  end
  return false
end

local length = redis.call('XLEN', stream)
local excess = max_length and length - max_length or 0
local oldest = max_age and string.format('%.0f-0', math.max(0, now() - max_age)) or '0-0'
local removed, dropped = 0, 0
for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', batch)) do
  local position = entry[1]
  if removed >= excess and not before(position, oldest) then
    break
  end
  if not is_finished(position) then
    if not force then
      break
    end
    if is_dropped(position) then
      dropped = dropped + 1
    end
  end
  removed = removed + 1
end
if removed > 0 then
  redis.call('XTRIM', stream, 'MAXLEN', '=', length - removed)
end
return {removed, dropped}
