-- Tasks whose time has come. Never sent: expired before delivery. Sent: it had its working time and the grace since its agent was last
-- heard; while its agent is online the end is put off, at the most until the ttl (an agent may queue tasks, or may have given a result up).
-- KEYS  1 owners  2 due  3 unfed  then for each item: agent, mail, cancels, record; last: ledger
-- ARGV  1 items: [agent id, task id]  2 ttl ms  3 grace ms after the work
-- Returns for each item the entry owed to the results feed, or '' when it has not ended
--@include _time
--@include _slices
--@include _end_task
local function due(agent, mail, cancels, record, id, task)
  local member = id .. ':' .. task
  local r = redis.call('HMGET', record, 'state', 'sent', 'work')
  if r[1] == 'pending' then return own_end(KEYS[3], KEYS[2], mail, cancels, record, id, task, 'failed', 'expired before delivery', '1004') end
  if r[1] ~= 'sent' and r[1] ~= 'running' then redis.call('ZREM', KEYS[2], member) return '' end
  local online = redis.call('HEXISTS', KEYS[1], id) == 1
  local heard = online and now_ms or tonumber(redis.call('HGET', agent, 'last_seen') or 0)
  local work, sent = tonumber(r[3]), tonumber(r[2] or 0) -- 0: Redis forgot that it was sent, and a sign of life came
  local at = math.min(math.max(sent, heard) + work, sent + math.max(work, tonumber(ARGV[2]))) + ARGV[3]
  if now_ms < at then redis.call('ZADD', KEYS[2], at, member) return '' end
  return own_end(KEYS[3], KEYS[2], mail, cancels, record, id, task, 'failed', online and 'no result' or 'no result, agent lost', '1004')
end
local out = {}
for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  out[i] = due(KEYS[4 * i], KEYS[1 + 4 * i], KEYS[2 + 4 * i], KEYS[3 + 4 * i], m[1], m[2])
end
close_ends()
return out
