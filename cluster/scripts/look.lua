-- What the keys say of tasks, all of one moment: who changes a task changes all of them in one step.
-- KEYS  1 due  2 unfed  then for each item: mail, record
-- ARGV  1 items: [agent id, task id]
-- Returns for each item {state or '', ms at which it ended or '0', 1 if in the mailbox, if due, if its entry is owed, ms the record lives or -1, -2}
local out = {}
for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  local mail, record = KEYS[1 + 2 * i], KEYS[2 + 2 * i]
  local r = redis.call('HMGET', record, 'state', 'ended')
  out[i] = {
    r[1] or '', r[2] or '0',
    redis.call('ZSCORE', mail, m[2]) and 1 or 0,
    redis.call('ZSCORE', KEYS[1], m[1] .. ':' .. m[2]) and 1 or 0,
    redis.call('HEXISTS', KEYS[2], 'r:' .. m[1] .. ':' .. m[2]),
    redis.call('PTTL', record),
  }
end
return out
