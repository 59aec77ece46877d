-- KEYS  1 a string key
-- ARGV  1 the value that it must have ('' = none)  2 the value to give it ('' = delete it)
-- Returns 1 when it has that value now, else 0
local value = redis.call('GET', KEYS[1]) or ''
if value == ARGV[2] then return 1 end
if value ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
