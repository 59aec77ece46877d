-- Sessions become owners. The newest wins; an epoch never repeats, even after Redis came back empty. A bid that was granted and comes
-- again, because the reply was lost, is answered as before: it is no takeover of itself.
-- KEYS  1 owners  2 deadlines  3 agents  then for each item: agent, lease, mail
-- ARGV  1 items: [id, node, boot, address, '1' = whatever the takeovers, mark of the bid, hash of the token that was shown, '' = none is
--         asked for]  2 lease ms  3 forget ms  4 takeovers allowed in 30 s, 0 = any number  5... fields of a profile
-- Returns for each item {'ok', epoch, owner before or '', incarnation, taken, open tasks up to it, {those fields}},
--         {'contested', address, owner before, '1' if the first in these 30 s}, {'unknown'}, {'revoked'} or {'wrong token'}
--@include _time
--@include _slices
--@include _whole
local lease_ends, forgotten_at = int(now_ms + ARGV[2]), int(now_ms + ARGV[3])
local deadlines, directory = {}, {} -- one key for all agents: written once
local function note(list, at, id)
  list[#list + 1] = at
  list[#list + 1] = id
end
local function claim(agent, lease, mail, id, node, boot, address, force, mark, token)
  local p = redis.call('HMGET', agent, 'token_hash', 'revoked', 'epoch', 'incarnation', 'taken', 'takeovers', 'takeover_at', 'address',
    'bid', 'bid_after', unpack(ARGV, 5))
  if p[2] then return {'revoked'} end
  if not p[1] then return {'unknown'} end
  if token ~= '' and token ~= p[1] then return {'wrong token'} end -- of hashes, and Lua compares their addresses: no time tells a thing
  local owner = redis.call('HGET', KEYS[1], id)
  local takeovers, since = tonumber(p[6] or 0), tonumber(p[7] or 0)
  local again = owner and p[9] == mark and owner == node .. ':' .. boot .. ':' .. p[3]
  if again then owner = p[10]
  elseif owner and redis.call('EXISTS', lease) == 1 then
    if now_ms - since > 30000 then takeovers, since = 0, now_ms end
    takeovers = takeovers + 1
    redis.call('HSET', agent, 'takeovers', takeovers, 'takeover_at', int(since))
    if force ~= '1' and ARGV[4] ~= '0' and takeovers > tonumber(ARGV[4]) then
      return {'contested', p[8] or '', owner, takeovers == ARGV[4] + 1 and '1' or '0'}
    end
  end
  local epoch = again and p[3] or int(math.max(tonumber(p[3] or 0) + 1, now_ms))
  local mine = node .. ':' .. boot .. ':' .. epoch
  redis.call('HSET', agent, 'epoch', epoch, 'claimed_as', p[4] or '0', 'address', address, 'bid', mark, 'bid_after', owner or '')
  redis.call('HSET', KEYS[1], id, mine)
  redis.call('SET', lease, mine, 'PX', ARGV[2])
  note(deadlines, lease_ends, id)
  note(directory, forgotten_at, id)
  local taken = p[5] or '0'
  return {'ok', epoch, owner or '', p[4] or '0', taken, redis.call('ZCOUNT', mail, '-inf', taken), {unpack(p, 11, 6 + #ARGV)}}
end
local out = {}
whole(function()
  for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do
    out[i] = claim(KEYS[1 + 3 * i], KEYS[2 + 3 * i], KEYS[3 + 3 * i], m[1], m[2], m[3], m[4], m[5], m[6], m[7])
  end
end, function()
  in_slices(deadlines, function(...) redis.call('ZADD', KEYS[2], ...) end)
  in_slices(directory, function(...) redis.call('ZADD', KEYS[3], ...) end)
end)
return out
