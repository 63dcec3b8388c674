-- What a script that asks for the time begins with, behind the prelude. The last key and the last two arguments are
-- for it: where the stream's offset is kept, and the earliest and latest time in ms that the caller expects, or ''.
local clock = table.remove(KEYS)
local latest, earliest = tonumber(table.remove(ARGV)), tonumber(table.remove(ARGV))
need({'TIME', false, 'HGET', clock})

-- A number that is kept beside the stream; false where there is none, or others put something else there.
local function kept(field)
  local text = redis.call('HGET', clock, field)
  return text and string.match(text, '^-?%d+$') and #text < 16 and text
end

-- What has to be added to the server's wall clock, in ms.
local function offset()
  return kept('offset') or '0'
end

-- The stream's own time in ms: the server's wall clock, less the steps that somebody has noticed.
local function shown()
  return wall() + offset()
end

-- The time in ms by which durations are measured. A step that nobody has noticed yet does not count.
local function now()
  local time = shown()
  if latest and (time > latest + 500 or time < earliest - 500) then
    return math.floor((earliest + latest) / 2)
  end
  return time
end
