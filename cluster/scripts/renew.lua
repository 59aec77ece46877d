-- Leases live on while their agents are heard. Starts with commands that a full Redis does not refuse: full is not dead.
-- KEYS  1 owners  2 deadlines  then for each item: lease, mail, agent
-- ARGV  1 items: [id, owner, ms since the agent was heard, cancels known]  2 lease ms
-- Returns for each item: -1 another owns it, -2 nobody does, -3 the agent is not known, -4 it was forgotten by an operator,
--         else 1 * (mail never sent) + 2 * (new cancels)
--@include _time
--@include _slices
local items = cmsgpack.unpack(ARGV[1])
--@include _owners
local out, deadlines = {}, {}
for i, m in ipairs(items) do
  local lease, mail, agent = KEYS[3 * i], KEYS[1 + 3 * i], KEYS[2 + 3 * i]
  local owner = owners[m[1]]
  if owner == m[2] then
    local left = ARGV[2] - m[3]
    if left > 0 then
      if redis.call('PEXPIRE', lease, int(left)) == 0 then redis.call('SET', lease, owner, 'PX', int(left)) end
      deadlines[#deadlines + 1] = int(now_ms + left)
      deadlines[#deadlines + 1] = m[1]
    end
    local p = redis.call('HMGET', agent, 'taken', 'cancels')
    out[i] = redis.call('ZCOUNT', mail, '(' .. (p[1] or 0), '+inf') > 0 and 1 or 0
    if (p[2] or '0') ~= m[4] then out[i] = out[i] + 2 end
  elseif owner then out[i] = -1
  elseif redis.call('HEXISTS', agent, 'revoked') == 1 then out[i] = -4
  else out[i] = redis.call('HEXISTS', agent, 'token_hash') == 1 and -2 or -3 end
end
in_slices(deadlines, function(...) redis.call('ZADD', KEYS[2], ...) end)
return out
