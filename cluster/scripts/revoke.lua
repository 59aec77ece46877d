-- An operator forgets an agent: its token is refused from here on, its ownership ends, its open tasks end as failed.
-- KEYS  1 owners  2 deadlines  3 agents  4 unfed  5 due  6 agent  7 lease  8 mail  9 cancels  10 stem of its task records  11 ledger
-- ARGV  1 id
-- Returns {'unknown'} or {'ok', owner or '', offline entry or '', host_id, entries owed to the results feed...}
--@include _time
--@include _slices
--@include _end_task
--@include _let_go
local p = redis.call('HMGET', KEYS[6], 'token_hash', 'host_id')
if not p[1] then return {'unknown'} end
local out = {'ok', redis.call('HGET', KEYS[1], ARGV[1]) or '', '', p[2] or ''}
redis.call('HSET', KEYS[6], 'revoked', int(now_ms))
for _, task in ipairs(redis.call('ZRANGE', KEYS[8], 0, -1)) do
  out[#out + 1] = own_end(KEYS[4], KEYS[5], KEYS[8], KEYS[9], KEYS[10] .. task, ARGV[1], task, 'failed', 'agent was forgotten', '1003')
end
if out[2] ~= '' then
  out[3] = let_go(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7], ARGV[1], out[2], 'revoked', now_ms, 0)
end
redis.call('ZREM', KEYS[3], ARGV[1])
local epoch = redis.call('HGET', KEYS[6], 'epoch')
redis.call('DEL', KEYS[6])
redis.call('HSET', KEYS[6], 'revoked', int(now_ms), 'epoch', epoch or '0')
close_ends()
return out
