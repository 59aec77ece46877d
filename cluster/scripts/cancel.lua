-- Cancels: what was never sent ends here; what was sent is remembered as cancelled, and told on every session until it ends.
-- KEYS  1 owners  2 due  3 unfed  then for each item: agent, mail, cancels, record; last: ledger
-- ARGV  1 items: [agent id, task id]
-- Returns for each item {'unknown', owner or ''}, {'ended', status}, {'dropped', entry owed to the results feed} or {'kept', owner or ''}
--@include _time
--@include _slices
--@include _end_task
local out = {}
for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  local agent, mail, cancels, record = unpack(KEYS, 4 * i, 3 + 4 * i)
  local state = redis.call('HGET', record, 'state')
  local owner = redis.call('HGET', KEYS[1], m[1]) or ''
  if not state then out[i] = {'unknown', owner}
  elseif state == 'pending' then
    redis.call('HSET', record, 'cancel', '1')
    out[i] = {'dropped', own_end(KEYS[3], KEYS[2], mail, cancels, record, m[1], m[2], 'cancelled', 'cancelled before delivery', '0')}
  elseif state == 'sent' or state == 'running' then
    if redis.call('HSET', record, 'cancel', '1') == 1 then
      redis.call('ZADD', cancels, redis.call('HINCRBY', agent, 'cancels', 1), m[2])
    end
    out[i] = {'kept', owner}
  else out[i] = {'ended', state} end
end
close_ends()
return out
