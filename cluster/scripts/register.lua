-- Registrations: profiles are written, new agent processes are counted.
-- KEYS  1 agents  2 stem of agents: same hash tag, same slot
-- ARGV  1 items: [id, token hash, '1' when an unknown token may make an agent, name, labels (JSON), system (JSON), hostname, os, arch]
--       2 ms within which a new one must connect
-- Returns for each item {'ok', incarnation, 1 if new, its host_id so far ('' = none)} or {'unknown'} or {'revoked'}
--@include _time
--@include _slices
--@include _whole
local connect_by, deadlines = int(now_ms + ARGV[2]), {}
local function register(m)
  local agent = KEYS[2] .. m[1]
  local known = redis.call('HMGET', agent, 'token_hash', 'revoked', 'host_id', 'incarnation')
  if known[2] then return {'revoked'} end
  if not known[1] and m[3] ~= '1' then return {'unknown'} end
  local incarnation = int((known[4] or 0) + 1)
  redis.call('HSET', agent, 'token_hash', m[2], 'name', m[4], 'labels', m[5], 'system', m[6], 'hostname', m[7], 'os', m[8], 'arch', m[9],
    'registered', int(now_ms), 'incarnation', incarnation)
  deadlines[#deadlines + 1] = connect_by
  deadlines[#deadlines + 1] = m[1]
  return {'ok', tonumber(incarnation), known[1] and 0 or 1, known[3] or ''}
end
local out = {}
whole(function()
  for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do out[i] = register(m) end
end, function()
  in_slices(deadlines, function(...) redis.call('ZADD', KEYS[1], 'GT', ...) end)
end)
return out
