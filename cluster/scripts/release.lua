-- Ownerships end: by their owner (a socket closed), or because the lease ran out. An old epoch releases nothing of a newer one.
-- KEYS  1 owners  2 deadlines  3 agents  4 unfed  then for each item: agent, lease; last: ledger
-- ARGV  1 items: [id, owner, reason, ms since heard, '1' = only if its lease has run out]  2 forget ms
-- Returns for each item the offline entry owed to the status feed, or '' when nothing was released
--@include _time
--@include _ledger
--@include _let_go
local out = {}
for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  local agent, lease = KEYS[3 + 2 * i], KEYS[4 + 2 * i]
  local left = m[5] == '1' and redis.call('PTTL', lease) or -2
  local owner = redis.call('HGET', KEYS[1], m[1])
  out[i] = ''
  if not owner then redis.call('ZREM', KEYS[2], m[1])
  elseif owner == m[2] and left >= 0 then redis.call('ZADD', KEYS[2], 'XX', now_ms + left, m[1])
  elseif owner == m[2] then
    out[i] = let_go(KEYS[1], KEYS[2], KEYS[3], KEYS[4], agent, lease, m[1], owner, m[3], now_ms - m[4], ARGV[2])
  end
end
close_books()
return out
