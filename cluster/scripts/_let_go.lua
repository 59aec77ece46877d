-- Ends an ownership and owes the status feed its offline entry. Field order: cluster/feeds.py, Offline. Expects `book`.
local function let_go(owners, deadlines, agents, unfed, agent, lease, id, owner, reason, heard_ms, forget_ms)
  local epoch = string.match(owner, '[^:]+$') or '0'
  local p = redis.call('HMGET', agent, 'name', 'host_id', 'hostname', 'os', 'arch')
  local entry = {id, p[1] or '', p[2] or '', reason, int(heard_ms), int(now_ms), p[3] or '', p[4] or '', p[5] or '', epoch}
  book('owed', redis.call('HSET', unfed, 's:' .. id .. ':' .. epoch, cjson.encode(entry)))
  redis.call('HDEL', owners, id)
  redis.call('DEL', lease)
  redis.call('ZREM', deadlines, id)
  redis.call('HSET', agent, 'last_seen', int(heard_ms))
  redis.call('ZADD', agents, now_ms + forget_ms, id)
  return cjson.encode(entry)
end
