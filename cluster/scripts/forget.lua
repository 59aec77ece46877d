-- Agents that stayed away too long are dropped from the directory; one that is owned or has open tasks stays.
-- KEYS  1 owners  2 agents  then for each item: agent, mail
-- ARGV  1 items: [id]  2 ms until the next look at one with open tasks  3 at one that is owned
-- Returns for each item its host_id ('' = none) when it was dropped, else '-'
--@include _time
local out = {}
for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  local agent, mail = KEYS[1 + 2 * i], KEYS[2 + 2 * i]
  local owned = redis.call('HEXISTS', KEYS[1], m[1]) == 1
  if owned or redis.call('EXISTS', mail) == 1 then
    redis.call('ZADD', KEYS[2], now_ms + (owned and ARGV[3] or ARGV[2]), m[1])
    out[i] = '-'
  else
    out[i] = redis.call('HGET', agent, 'host_id') or ''
    redis.call('DEL', agent)
    redis.call('ZREM', KEYS[2], m[1])
  end
end
return out
