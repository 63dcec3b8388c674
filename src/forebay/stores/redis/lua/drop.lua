-- Remove a stream's groups and companions, and with '1' its entries and notes; 0 if the notes are not as expected.
-- KEYS  stream, its companions, notes. The script makes the keys of the groups itself; they share the hash tag
-- ARGV  '1' to remove the entries and notes too, then the notes expected, as in restore.lua
local stream = KEYS[1]
local tag = '{' .. stream .. '}:'
local companions = {'waiting:', 'attempts:', 'handled:', 'finished:', 'progress:'}
need({'HGET', KEYS[#KEYS], 'EXISTS', stream, 'XACK', stream, 'XINFO GROUPS', stream, 'XGROUP DESTROY', stream})
for _, key in ipairs(KEYS) do
  need({'UNLINK', key})
end
if not are_as_expected(KEYS[#KEYS], 1) then
  return 0
end
if redis.call('EXISTS', stream) == 1 then
  begin_without_memory(stream, '')
  local groups = redis.call('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups) do
    need({'UNLINK', tag .. companions[1] .. named(group)['name']})
  end
  for _, group in ipairs(groups) do
    local name = named(group)['name']
    for _, companion in ipairs(companions) do
      redis.call('UNLINK', tag .. companion .. name)
    end
    redis.call('XGROUP', 'DESTROY', stream, name)
  end
end
redis.call('UNLINK', unpack(KEYS, 2, #KEYS - 1))
if ARGV[1] == '1' then
  redis.call('UNLINK', stream, KEYS[#KEYS], tag .. 'clock')
end
return 1
