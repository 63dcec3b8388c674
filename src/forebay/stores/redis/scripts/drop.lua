-- Remove a stream's groups and companions, and with '1' its entries and notes; 0 where notes are not as expected.
-- KEYS  stream, its companions, notes; those of its groups are known only here, and share the hash tag
-- ARGV  '1' to remove the entries and notes too, then as in restore the notes expected
local stream = KEYS[1]
local tag = '{' .. stream .. '}:'
if not are_as_expected(KEYS[#KEYS], 1) then
  return 0
end
if redis.call('EXISTS', stream) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local name = named(group)['name']
    for _, companion in ipairs({'waiting:', 'attempts:', 'handled:', 'finished:'}) do
      redis.call('UNLINK', tag .. companion .. name)
    end
    redis.call('XGROUP', 'DESTROY', stream, name)
  end
end
redis.call('UNLINK', unpack(KEYS, 2, #KEYS - 1))
if ARGV[1] == '1' then
  redis.call('UNLINK', stream, KEYS[#KEYS])
end
return 1
