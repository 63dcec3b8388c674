-- The beginning of every script that asks for the time, after the prelude. The last key and the last two arguments
-- belong to it: the key of the stream's offset, and the earliest and latest time in ms that the caller accepts, or ''.
local clock = table.remove(KEYS)
local latest, earliest = tonumber(table.remove(ARGV)), tonumber(table.remove(ARGV))
need({'TIME', false, 'HGET', clock})

-- A number that is kept beside the stream; false if there is none, or if another program put something else there.
local function kept(field)
  local text = redis.call('HGET', clock, field)
  return text and is_number(text) and text
end

-- The ms to add to the server's wall clock for the stream's own time.
local function offset()
  return kept('offset') or '0'
end

-- The stream's own time in ms: the server's wall clock, less the steps that a store has noticed.
local function shown()
  return wall() + offset()
end

-- The time in ms by which durations are measured. A step of the clock that no store has noticed yet does not count.
local function now()
  local time = shown()
  if latest and (time > latest or time < earliest) then
    return math.floor((earliest + latest) / 2)
  end
  return time
end
