-- What agents say of tasks. The first real end wins, whichever epoch brings it: a result is a fact.
-- `lost` is an end of ours, for a task that an agent has and Redis forgot: a record, whatever it says, wins over it.
-- Progress is appended as long as its task's end is owed: the end may be of the same batch, tried again. The feed refuses it after the end.
-- What is said of tasks without a record is taken; beyond a number of such messages an agent's leave none.
-- What belongs to an agent is declared by its stem, with the ids behind it: same hash tag, same slot.
-- KEYS  1 unfed  2 due  3 stem of mailboxes  4 stem of cancels  5 stem of records  6 stem of strangers  7 ledger
-- ARGV  1 items: [agent id, task id, 'end' | 'lost' | 'progress' | 'life', status, message id, entry (JSON), exit code, error message, error code]
--       2 messages of one agent about tasks without a record that leave something behind  3 ms in which they are counted
-- Returns for each item: 1 append it and ack, 2 the same, but let it leave nothing else behind, 0 ack only; for 'life' the ms at which the task ended, 0 when it is open, -1 when unknown
--@include _time
--@include _end_task
local function is_kept(strangers)
  local count = redis.call('INCR', strangers)
  if count == 1 then redis.call('PEXPIRE', strangers, ARGV[3]) end
  return count <= tonumber(ARGV[2])
end
local function settle(m)
  local agent, task, kind = m[1], m[2], m[3]
  local record = KEYS[5] .. agent .. ':' .. task
  local r = look(record)
  local state = r[1]
  local open = state == 'pending' or state == 'sent' or state == 'running'
  local owed = not open and state and redis.call('HEXISTS', KEYS[1], 'r:' .. agent .. ':' .. task) == 1
  if not state and (kind == 'end' or kind == 'progress') and not is_kept(KEYS[6] .. agent) then
    if kind == 'end' then book('owed', redis.call('HSET', KEYS[1], 'r:' .. agent .. ':' .. task, m[6])) end
    return 2
  end
  if kind == 'end' or kind == 'lost' then
    if not state or open and kind == 'end' then
      end_task(KEYS[1], KEYS[2], KEYS[3] .. agent, KEYS[4] .. agent, record, r, agent, task, m[4], m[5], m[6], m[7], m[8], m[9])
      return 1
    end
    return r[2] == m[5] and owed and 1 or 0
  end
  if open and state ~= 'running' then redis.call('HSET', record, 'state', 'running') end
  if kind == 'progress' then return (open or owed or not state) and 1 or 0 end
  return open and 0 or tonumber(r[3] or -1)
end
local out = {}
for i, m in ipairs(cmsgpack.unpack(ARGV[1])) do out[i] = settle(m) end
close_books()
return out
