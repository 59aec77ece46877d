-- The books of a shard, and what they are to be held against; books that are missing are opened on what is there.
-- KEYS  1 due  2 unfed  3 ledger
-- ARGV  none
-- Returns {accepted, ended, open tasks, owed, paid, entries that wait}
local due, unfed = redis.call('ZCARD', KEYS[1]), redis.call('HLEN', KEYS[2])
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('HSET', KEYS[3], 'accepted', due, 'ended', 0, 'owed', unfed, 'paid', 0)
end
local n = redis.call('HMGET', KEYS[3], 'accepted', 'ended', 'owed', 'paid')
return {tonumber(n[1] or 0), tonumber(n[2] or 0), due, tonumber(n[3] or 0), tonumber(n[4] or 0), unfed}
