-- Make a group; 0 where it exists already.
-- KEYS  stream
-- ARGV  group, start
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
if made.err and string.find(made.err, 'BUSYGROUP', 1, true) then
  return 0
end
return made.err and made or 1
