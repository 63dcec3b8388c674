-- Remove a batch of the oldest entries; return their number, and how many of them a group had not finished.
-- KEYS  stream. The script makes the waiting keys of the groups itself; they share the hash tag
-- ARGV  max_length or '', max_age in ms or '', '1' to force, size of the batch, groups to ignore
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

local waited_for, others = {}, {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  info = named(info)
  local group = {name = info['name'], last = info['last-delivered-id'], waiting = '{' .. stream .. '}:waiting:' .. info['name']}
  need({'ZCARD', group.waiting, 'ZSCORE', group.waiting})
  group.first_pending = redis.call('XPENDING', stream, group.name)[2]
  group.has_waiting = redis.call('ZCARD', group.waiting) > 0
  local kind = (force or passed[group.name]) and others or waited_for
  kind[#kind + 1] = group
end

-- Called for one entry after the other, so that a trim costs as much as it removes, however many entries are pending.
local function have_finished(groups, position)
  for _, group in ipairs(groups) do
    if before(group.last, position)
      or (group.has_waiting and redis.call('ZSCORE', group.waiting, position))
      or (group.first_pending and not before(position, group.first_pending)
        and #redis.call('XPENDING', stream, group.name, position, position, 1) > 0) then
      return false
    end
  end
  return true
end

local length = redis.call('XLEN', stream)
local excess = max_length and length - max_length or 0
local oldest = max_age and string.format('%.0f-0', math.max(0, wall() - max_age)) or '0-0'
local removed, dropped = 0, 0
local from, page, is_over = '-', 1, false
while not is_over and removed < batch do
  local found = redis.call('XRANGE', stream, from, '+', 'COUNT', math.min(page, batch - removed))
  is_over = #found == 0
  for _, entry in ipairs(found) do
    local position = entry[1]
    is_over = (removed >= excess and not before(position, oldest)) or not have_finished(waited_for, position)
    if is_over then
      break
    end
    if not have_finished(others, position) then
      dropped = dropped + 1
    end
    removed = removed + 1
    from = '(' .. position
  end
  page = math.min(page * 2, 100)
end
if removed > 0 then
  redis.call('XTRIM', stream, 'MAXLEN', '=', length - removed)
end
return {removed, dropped}
