-- Tasks are accepted into mailboxes: all of an item or none of it. The task id is the idempotency key.
-- Keys of agents and records are declared stems with the ids behind them: same hash tag, same slot.
-- KEYS  1 owners  2 due  3 stem of agents  4 stem of mail  5 stem of task records  6 pending  7 ledger
-- ARGV  1 items: [agent id, batch or '', [[task id, JSON, digest of it, ms it may work], ...]]  2 ttl ms  3 open tasks allowed an agent
-- Returns for each item {'ok', 'dispatched' or 'pending', owner or '', new tasks}, {'unknown'}, {'full'} or {'conflict', task id}
--@include _time
--@include _ledger
local function refusal(m, agent, mail, stem)
  local p = redis.call('HMGET', agent, 'token_hash', 'revoked')
  if not p[1] or p[2] then return {'unknown'} end
  local new, answer = {}, nil
  for j, t in ipairs(m[3]) do
    local r = redis.call('HMGET', stem .. t[1], 'state', 'sum', 'answer')
    if r[2] and r[2] ~= t[3] then return {'conflict', t[1]} end
    if r[1] then answer = answer or r[3] or 'dispatched' else new[#new + 1] = j end
  end
  if #new > 0 and redis.call('ZCARD', mail) + #new > tonumber(ARGV[3]) then return {'full'} end
  return nil, new, answer
end
local function enqueue(m)
  local agent, mail, stem = KEYS[3] .. m[1], KEYS[4] .. m[1], KEYS[5] .. m[1] .. ':'
  local refused, new, answer = refusal(m, agent, mail, stem)
  if refused then return refused end
  local owner = redis.call('HGET', KEYS[1], m[1])
  if #new == 0 then return {'ok', answer, owner or '', 0} end
  answer = owner and 'dispatched' or 'pending'
  local seq, created, ends = redis.call('HINCRBY', agent, 'seq', #new) - #new, int(now_ms), int(now_ms + ARGV[2])
  for i, j in ipairs(new) do
    local t = m[3][j]
    redis.call('HSET', stem .. t[1], 'json', t[2], 'sum', t[3], 'state', 'pending', 'batch', m[2], 'work', t[4], 'answer', answer,
      'created', created)
    redis.call('ZADD', mail, seq + i, t[1])
    redis.call('ZADD', KEYS[2], ends, m[1] .. ':' .. t[1])
  end
  redis.call('ZADD', KEYS[6], 'NX', created, m[1])
  book('accepted', #new)
  return {'ok', answer, owner or '', #new}
end
local out = {}
for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do out[i] = enqueue(m) end
close_books()
return out
