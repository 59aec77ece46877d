-- Tasks are accepted into mailboxes: all of an item or none of it. The task id is the idempotency key.
-- KEYS  1 owners  2 due  then for each item: agent, mail, and its tasks' records; last: pending, ledger
-- ARGV  1 items: [agent id, batch or '', [[task id, JSON, digest of it, ms it may work], ...]]  2 ttl ms  3 open tasks allowed an agent
-- Returns for each item {'ok', 'dispatched' or 'pending', owner or '', new tasks}, {'unknown'}, {'full'} or {'conflict', task id}
--@include _time
--@include _ledger
local function refusal(m, agent, mail, first)
  local p = redis.call('HMGET', agent, 'token_hash', 'revoked')
  if not p[1] or p[2] then return {'unknown'} end
  local new, answer = {}, nil
  for j, t in ipairs(m[3]) do
    local r = redis.call('HMGET', KEYS[first + j], 'state', 'sum', 'answer')
    if r[2] and r[2] ~= t[3] then return {'conflict', t[1]} end
    if r[1] then answer = answer or r[3] or 'dispatched' else new[#new + 1] = j end
  end
  if #new > 0 and redis.call('ZCARD', mail) + #new > tonumber(ARGV[3]) then return {'full'} end
  return nil, new, answer
end
local function enqueue(m, agent, mail, first)
  local refused, new, answer = refusal(m, agent, mail, first)
  if refused then return refused end
  local owner = redis.call('HGET', KEYS[1], m[1])
  if #new > 0 then answer = owner and 'dispatched' or 'pending' end
  for _, j in ipairs(new) do
    local t = m[3][j]
    redis.call('HSET', KEYS[first + j], 'json', t[2], 'sum', t[3], 'state', 'pending', 'batch', m[2], 'work', t[4], 'answer', answer,
      'created', int(now_ms))
    redis.call('ZADD', mail, redis.call('HINCRBY', agent, 'seq', 1), t[1])
    redis.call('ZADD', KEYS[2], now_ms + ARGV[2], m[1] .. ':' .. t[1])
  end
  if #new > 0 then redis.call('ZADD', KEYS[#KEYS - 1], 'NX', int(now_ms), m[1]) end
  book('accepted', #new)
  return {'ok', answer, owner or '', #new}
end
local out, k = {}, 3
for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  out[i] = enqueue(m, KEYS[k], KEYS[k + 1], k + 1)
  k = k + 2 + #m[3]
end
close_books()
return out
