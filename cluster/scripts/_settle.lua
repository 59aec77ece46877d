-- What agents say of tasks. The first real end wins, whichever epoch brings it: a result is a fact.
-- `lost` is an end of ours, for a task that an agent has and Redis forgot: a record, whatever it says, wins over it.
-- Progress is appended as long as its task's end is owed: the end may be of the same batch, tried again. The feed refuses it after the end.
-- What is said of tasks without a record is taken; beyond a number of such messages an agent's leave none.
-- What belongs to an agent is declared by its stem, with the ids behind it: same hash tag, same slot.
-- Expects: unfed, due, mails, cancels, records, strangers (two keys, four stems), strangers_allowed, record_ms, `repeated`, the verdict on
-- what ended its task before, in this very message; and `enter(m, is_alone)`,
-- which puts what is said into its feed, where that is done in the same step. It comes first: a full Redis, or a feed that is none,
-- refuses it before anything has changed.
--@include _end_task
local function is_kept(agent)
  local count = redis.call('INCR', strangers .. agent)
  if count == 1 then redis.call('PEXPIRE', strangers .. agent, record_ms) end
  return count <= tonumber(strangers_allowed)
end
-- `owed`: the entry as JSON, owed from here on; '' where it enters its feed in this step. Returns the verdict: see settle.lua.
local function settle(m, agent, task, kind, status, by, owed, exit_code, error_msg, error_code)
  local record = records .. agent .. ':' .. task
  local r = look(record)
  local state = r[1]
  local open = state == 'pending' or state == 'sent' or state == 'running'
  local is_owed = not open and state and redis.call('HEXISTS', unfed, 'r:' .. agent .. ':' .. task) == 1
  if not state and (kind == 'end' or kind == 'progress') and not is_kept(agent) then
    enter(m, true)
    if owed ~= '' then book('owed', redis.call('HSET', unfed, 'r:' .. agent .. ':' .. task, owed)) end
    return 2
  end
  if kind == 'end' or kind == 'lost' then
    local ends = not state or open and kind == 'end'
    if not ends and not (r[2] == by and is_owed) then return r[2] == by and repeated or 0 end
    enter(m)
    if ends then
      end_task(unfed, due, mails .. agent, cancels .. agent, record, r, agent, task, status, by, owed, exit_code, error_msg, error_code)
      if owed == '' then redis.call('PEXPIRE', record, record_ms) end
    end
    return 1
  end
  if open and state ~= 'running' then redis.call('HSET', record, 'state', 'running') end
  if kind == 'life' then return open and 0 or tonumber(r[3] or -1) end
  if state and not open and not is_owed then return 0 end
  enter(m)
  return 1
end
