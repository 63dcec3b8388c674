-- How many entries left the stream before the group read them, told once; false where the server does not know.
-- KEYS  stream
-- ARGV  group
if redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end
local info = named(redis.call('XINFO', 'STREAM', KEYS[1]))
local first = info['first-entry'] and info['first-entry'][1]
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  group = named(group)
  if group['name'] == ARGV[1] then
    if first and not before(group['last-delivered-id'], first) then
      return 0
    end
    -- All that the group has read is gone by now: what is gone beyond that it never read. Servers before 7 count neither.
    local added, read = info['entries-added'], group['entries-read']
    if not added or not read then
      return false
    end
    local gone = added - info['length']
    if gone > read then
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], group['last-delivered-id'], 'ENTRIESREAD', gone)
    end
    return math.max(0, gone - read)
  end
end
return false
