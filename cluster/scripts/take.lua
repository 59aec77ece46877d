-- An owner takes what was never sent, in mailbox order: marked sent under its epoch first, written to the socket afterwards.
-- What was marked under the same epoch beyond the caller's cursor is handed out again: the reply was lost, nothing was written.
-- Records' keys are a declared stem with the task id behind it: same hash tag, same slot.
-- KEYS  1 owners  2 due  then for each item: agent, mail, cancels, stem of its task records; last: pending
-- ARGV  1 items: [id, owner, cursor, cancels known]  2 tasks at most, of all items  3 bytes after which no further task is begun, of all
--       4 grace ms after the work
-- Returns for each item {'lost'} or {'ok', cancels, 1 if more waits, cancelled tasks, the cursor to go on from, task, seq, batch, JSON,
-- ms of its acceptance, task, seq, ...}
-- The cursor passes what needs no handing out (a sign of life came first); else a caller would be told of more at the same place, for ever.
--@include _time
--@include _slices
--@include _whole
local items = cmsgpack.unpack(ARGV[1])
--@include _owners
local room, bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
-- What is one key for all agents is written once.
local dues, emptied = {}, {}
local function hand_out(out, m, stem, waiting, epoch, incarnation)
  local batch, last, sent, n = '', 0, int(now_ms), #out
  for i = 1, #waiting, 2 do
    local task, record = waiting[i], stem .. waiting[i]
    local r = redis.call('HMGET', record, 'state', 'epoch', 'json', 'batch', 'work', 'created')
    if bytes <= 0 and (r[4] == '' or r[4] ~= batch) then
      out[3] = 1
      break
    end
    if r[1] == 'pending' then
      redis.call('HSET', record, 'state', 'sent', 'epoch', epoch, 'incarnation', incarnation, 'attempts', '1', 'sent', sent)
      dues[#dues + 1] = int(now_ms + r[5] + ARGV[4])
      dues[#dues + 1] = m[1] .. ':' .. task
    end
    if r[1] == 'pending' or r[1] == 'sent' and r[2] == epoch then
      out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] = task, waiting[i + 1], r[4], r[3], r[6] or '0'
      n = n + 5
      bytes, batch = bytes - #r[3], r[4]
    end
    last = tonumber(waiting[i + 1])
  end
  return last
end
-- A batch is one frame, however many tasks it has: what is left of the last one's batch is added.
local function complete(waiting, mail, stem)
  local batch = redis.call('HGET', stem .. waiting[#waiting - 1], 'batch')
  while batch and batch ~= '' do
    local more = redis.call('ZRANGEBYSCORE', mail, '(' .. waiting[#waiting], '+inf', 'WITHSCORES', 'LIMIT', 0, 100)
    if #more == 0 then return end
    for i = 1, #more, 2 do
      if redis.call('HGET', stem .. more[i], 'batch') ~= batch then return end
      waiting[#waiting + 1] = more[i]
      waiting[#waiting + 1] = more[i + 1]
    end
  end
end
local function take(m, agent, mail, cancels, stem)
  if owners[m[1]] ~= m[2] then return {'lost'} end
  if room <= 0 or bytes <= 0 then return {'ok', m[4], 1, {}, m[3]} end
  local p = redis.call('HMGET', agent, 'taken', 'claimed_as', 'cancels')
  local taken = tonumber(p[1] or 0)
  local after = math.min(tonumber(m[3]), taken) -- a Redis that lost its last second counts behind the caller
  local waiting = redis.call('ZRANGEBYSCORE', mail, '(' .. int(after), '+inf', 'WITHSCORES', 'LIMIT', 0, room)
  local out = {'ok', p[3] or '0', #waiting >= 2 * room and 1 or 0, {}, m[3]}
  if #waiting >= 2 * room then complete(waiting, mail, stem) end
  local last = hand_out(out, m, stem, waiting, string.match(m[2], '[^:]+$'), p[2] or '0')
  if last > taken then redis.call('HSET', agent, 'taken', int(last)) end
  if last > tonumber(m[3]) then out[5] = int(last) end
  if out[3] == 0 then emptied[#emptied + 1] = m[1] end
  if out[2] ~= m[4] then out[4] = redis.call('ZRANGEBYSCORE', cancels, '(' .. m[4], '+inf') end
  room = room - #waiting / 2
  return out
end
local out = {}
whole(function()
  for i, m in ipairs(items) do
    out[i] = take(m, KEYS[4 * i - 1], KEYS[4 * i], KEYS[4 * i + 1], KEYS[4 * i + 2])
  end
end, function()
  in_slices(dues, function(...) redis.call('ZADD', KEYS[2], ...) end)
  in_slices(emptied, function(...) redis.call('ZREM', KEYS[#KEYS], ...) end)
end)
return out
