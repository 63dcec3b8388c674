-- Remove a batch of the oldest entries; return how many, and how many of them a group had not finished.
-- KEYS  stream; the waiting keys of its groups are known only here, and share its hash tag
-- ARGV  max_length or '', max_age in ms or '', '1' to force, batch, groups that hold nothing back
local stream = KEYS[1]
local max_length, max_age, force, batch = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
need({'EXISTS', stream, 'XLEN', stream, 'XINFO GROUPS', stream, 'XPENDING', stream, 'XRANGE', stream, 'XTRIM', stream,
  'TIME', false})
if redis.call('EXISTS', stream) == 0 then
  return {0, 0}
end
local passed = {}
for i = 5, #ARGV do
  passed[ARGV[i]] = true
end

-- Groups have finished what stands before `unfinished` and not behind `delivered`: all, and those that are waited for.
local all, waited_for = {}, {}
local function narrow(bounds, last, open)
  if not bounds.delivered or before(last, bounds.delivered) then
    bounds.delivered = last
  end
  for _, position in ipairs(open) do
    if not bounds.unfinished or before(position, bounds.unfinished) then
      bounds.unfinished = position
    end
  end
end

local function is_finished(bounds, position)
  return not (bounds.delivered and before(bounds.delivered, position))
    and not (bounds.unfinished and not before(position, bounds.unfinished))
end

local groups = {}
for i, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  info = named(info)
  local group = {name = info['name'], last = info['last-delivered-id']}
  group.waiting = '{' .. stream .. '}:waiting:' .. group.name
  groups[i] = group
  need({'ZRANGE', group.waiting, 'ZSCORE', group.waiting})
  local open = redis.call('ZRANGE', group.waiting, 0, -1)
  open[#open + 1] = redis.call('XPENDING', stream, group.name)[2] or nil
  narrow(all, group.last, open)
  if not force and not passed[group.name] then
    narrow(waited_for, group.last, open)
  end
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
local oldest = max_age and string.format('%.0f-0', math.max(0, wall() - max_age)) or '0-0'
local removed, dropped = 0, 0
for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', batch)) do
  local position = entry[1]
  if (removed >= excess and not before(position, oldest)) or not is_finished(waited_for, position) then
    break
  end
  if not is_finished(all, position) and is_dropped(position) then
    dropped = dropped + 1
  end
  removed = removed + 1
end
if removed > 0 then
  redis.call('XTRIM', stream, 'MAXLEN', '=', length - removed)
end
return {removed, dropped}
