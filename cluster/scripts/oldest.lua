-- The oldest task that was accepted and never handed out, of a shard. `pending` says where to look: `enqueue` notes since when an agent has
-- something waiting, `take` drops it when it has handed out all; what else ends tasks leaves it to be corrected here, the oldest first.
-- Keys of agents are declared by their stems, with the ids behind them: same hash tag, same slot.
-- KEYS  1 pending  2 stem of agents  3 stem of mailboxes  4 stem of task records
-- ARGV  1 how many are looked at, at the most
-- Returns {ms at which it was accepted, 0 = there is none; agents with such tasks, at the most}
local function accepted(agent)
  local taken = redis.call('HGET', KEYS[2] .. agent, 'taken') or '0'
  local first = redis.call('ZRANGEBYSCORE', KEYS[3] .. agent, '(' .. taken, '+inf', 'LIMIT', 0, 1)[1]
  return first and (tonumber(redis.call('HGET', KEYS[4] .. agent .. ':' .. first, 'created') or 0))
end
local oldest = 0
for _ = 1, tonumber(ARGV[1]) do
  local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  if not head[1] then oldest = 0 break end
  local since, at = tonumber(head[2]), accepted(head[1])
  oldest = since
  if not at then redis.call('ZREM', KEYS[1], head[1])
  elseif at <= since then break
  else redis.call('ZADD', KEYS[1], string.format('%.0f', at), head[1]) end
end
return {oldest, redis.call('ZCARD', KEYS[1])}
