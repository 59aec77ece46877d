-- A node says that it lives. Another process with the same id does not get the name while this one lives.
-- A beat starts with the command that a full Redis does not refuse: full is not dead.
-- KEYS  1 node  2 inbox
-- ARGV  1 ms the announcement lives  2 ms the inbox lives  3 '1' when it enters: what lies in its inbox was meant for an earlier process
--       4 boot, then the other fields and values of the announcement
-- Returns 1, or 0 when the id belongs to another boot
local boot = redis.call('HGET', KEYS[1], 'boot')
if boot and boot ~= ARGV[4] then return 0 end
if boot then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
redis.call('HSET', KEYS[1], 'boot', unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if ARGV[3] == '1' then redis.call('DEL', KEYS[2]) end
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('XADD', KEYS[2], '*', 'kind', 'open') end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
