-- Tasks are accepted into mailboxes: all of an item or none of it. The task id is the idempotency key.
-- Keys of agents and records are declared stems with the ids behind them: same hash tag, same slot.
-- KEYS  1 owners  2 due  3 stem of agents  4 stem of mail  5 stem of task records  6 pending  7 ledger
-- ARGV  1 items: [agent id, batch or '', task id, JSON, digest of it, ms it may work, the next task's, ...]  2 ttl ms  3 open tasks allowed an agent
-- Returns for each item {'ok', 'dispatched' or 'pending', owner or '', new tasks}, {'unknown'}, {'full'} or {'conflict', task id}
--@include _time
--@include _slices
--@include _whole
local items = cmsgpack.unpack(ARGV[1])
--@include _owners
--@include _ledger
local function refusal(m, agent, mail, stem)
  local p = redis.call('HMGET', agent, 'token_hash', 'revoked')
  if not p[1] or p[2] then return {'unknown'} end
  local new, answer = {}, nil
  for j = 3, #m, 4 do
    local r = redis.call('HMGET', stem .. m[j], 'state', 'sum', 'answer')
    if r[2] and r[2] ~= m[j + 2] then return {'conflict', m[j]} end
    if r[1] then answer = answer or r[3] or 'dispatched' else new[#new + 1] = j end
  end
  if #new > 0 and redis.call('ZCARD', mail) + #new > tonumber(ARGV[3]) then return {'full'} end
  return nil, new, answer
end
-- What is one key for all agents is written once.
local dues, waiting = {}, {}
local created, ends = int(now_ms), int(now_ms + ARGV[2])
local function enqueue(m)
  local agent, mail, stem = KEYS[3] .. m[1], KEYS[4] .. m[1], KEYS[5] .. m[1] .. ':'
  local refused, new, answer = refusal(m, agent, mail, stem)
  if refused then return refused end
  local owner = owners[m[1]]
  if #new == 0 then return {'ok', answer, owner or '', 0} end
  answer = owner and 'dispatched' or 'pending'
  local seq = redis.call('HINCRBY', agent, 'seq', #new) - #new
  for i, j in ipairs(new) do
    local task = m[j]
    redis.call('HSET', stem .. task, 'json', m[j + 1], 'sum', m[j + 2], 'state', 'pending', 'batch', m[2], 'work', m[j + 3], 'answer', answer,
      'created', created)
    redis.call('ZADD', mail, seq + i, task)
    dues[#dues + 1] = ends
    dues[#dues + 1] = m[1] .. ':' .. task
  end
  waiting[#waiting + 1] = created
  waiting[#waiting + 1] = m[1]
  book('accepted', #new)
  return {'ok', answer, owner or '', #new}
end
local out = {}
whole(function()
  for i, m in ipairs(items) do out[i] = enqueue(m) end
end, function()
  in_slices(dues, function(...) redis.call('ZADD', KEYS[2], ...) end)
  in_slices(waiting, function(...) redis.call('ZADD', KEYS[6], 'NX', ...) end)
  close_books()
end)
return out
