-- Make a group; 0 where it exists already.
-- KEYS  stream
-- ARGV  group, start
-- Looked at first, because a server without room refuses to create even what is there.
local known = redis.pcall('XINFO', 'GROUPS', KEYS[1])
for _, group in ipairs(known) do
  if named(group)['name'] == ARGV[1] then
    return 0
  end
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
return made.err and made or 1
