-- A registration: the profile is written, a new agent process is counted.
-- KEYS  1 agent  2 agents
-- ARGV  1 id  2 token hash  3 '1' when an unknown token may make an agent  4 ms within which a new one must connect
--       5 name  6 labels (JSON)  7 system (JSON)  8 hostname  9 os  10 arch
-- Returns {'ok', incarnation, 1 if new, its host_id so far ('' = none)} or {'unknown'} or {'revoked'}
--@include _time
local known = redis.call('HMGET', KEYS[1], 'token_hash', 'revoked', 'host_id')
if known[2] then return {'revoked'} end
if not known[1] and ARGV[3] ~= '1' then return {'unknown'} end
redis.call('HSET', KEYS[1], 'token_hash', ARGV[2], 'name', ARGV[5], 'labels', ARGV[6], 'system', ARGV[7], 'hostname', ARGV[8],
  'os', ARGV[9], 'arch', ARGV[10], 'registered', int(now_ms))
redis.call('ZADD', KEYS[2], 'GT', now_ms + ARGV[4], ARGV[1])
return {'ok', redis.call('HINCRBY', KEYS[1], 'incarnation', 1), known[1] and 0 or 1, known[3] or ''}
