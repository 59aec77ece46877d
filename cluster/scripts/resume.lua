-- After a claim: what earlier sessions were sent and did not end. A task sent to an earlier process of the agent (an older incarnation)
-- fails or goes again, by configuration; one sent to the same process without a sign of life goes again after the grace.
-- A cancel replaces redelivery; running out of attempts stops redelivery and ends nothing.
-- KEYS  1 owners  2 due  3 unfed  4 agent  5 mail  6 cancels  7 stem of its task records  8 ledger
-- ARGV  1 id  2 owner  3 cursor at the claim  4 'claim' or 'grace'  5 '1' = also what this epoch was handed before (its reply was lost)
--       6 'fail' or 'redeliver' on an agent restart  7 attempts allowed  8 grace ms after the work  9 seq behind which to begin
--       10 tasks at most  11 bytes after which no further task is begun
-- Returns {'lost'} or {'ok', entries owed to the results feed, seq behind which to go on (0 = that was all), task, seq, batch, JSON, task, ...}
--@include _time
--@include _slices
--@include _end_task
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return {'lost'} end
local epoch = string.match(ARGV[2], '[^:]+$')
local incarnation = redis.call('HGET', KEYS[4], 'claimed_as') or '0'
local out, bytes, batch, room = {'ok', {}, 0}, 0, '', 3 + 4 * ARGV[10]
local sent = redis.call('ZRANGEBYSCORE', KEYS[5], '(' .. ARGV[9], ARGV[3], 'WITHSCORES')
for i = 1, #sent, 2 do
  local task, record = sent[i], KEYS[7] .. sent[i]
  local r = redis.call('HMGET', record, 'state', 'epoch', 'incarnation', 'attempts', 'cancel', 'json', 'batch', 'work')
  local restarted = r[3] and r[3] ~= incarnation -- without one: Redis forgot that it was sent, and a sign of life came
  local again = ARGV[5] == '1' and r[1] == 'sent' and r[2] == epoch
  local due = r[2] ~= epoch and (ARGV[4] == 'claim' and restarted or ARGV[4] == 'grace' and not restarted and r[1] == 'sent')
  if due and restarted and ARGV[6] == 'fail' then
    local text = r[5] and 'cancelled, and the agent restarted' or 'agent restarted, the task may have run'
    table.insert(out[2], own_end(KEYS[3], KEYS[2], KEYS[5], KEYS[6], record, ARGV[1], task, r[5] and 'cancelled' or 'failed', text, '2001'))
  elseif due and r[5] then
    table.insert(out[2], own_end(KEYS[3], KEYS[2], KEYS[5], KEYS[6], record, ARGV[1], task, 'cancelled', 'cancelled before it was delivered again', '0'))
  elseif again or due and tonumber(r[4]) < tonumber(ARGV[7]) then
    if (#out >= room or bytes >= tonumber(ARGV[11])) and (r[7] == '' or r[7] ~= batch) then
      out[3] = tonumber(sent[i + 1]) - 1
      break
    end
    if due then
      redis.call('HSET', record, 'state', 'sent', 'epoch', epoch, 'incarnation', incarnation, 'attempts', r[4] + 1, 'sent', int(now_ms))
      redis.call('ZADD', KEYS[2], now_ms + r[8] + ARGV[8], ARGV[1] .. ':' .. task)
    end
    for _, v in ipairs({task, sent[i + 1], r[7], r[6]}) do out[#out + 1] = v end
    bytes, batch = bytes + #r[6], r[7]
  end
end
close_ends()
return out
