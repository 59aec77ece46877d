-- What agents say of tasks. The first real end wins, whichever epoch brings it: a result is a fact.
-- `lost` is an end of ours, for a task that an agent has and Redis forgot: a record, whatever it says, wins over it.
-- Progress is appended as long as its task's end is owed: the end may be of the same batch, tried again. The feed refuses it after the end.
-- What is said of tasks without a record is taken; beyond a number of such messages an agent's leave none.
-- What belongs to an agent is declared by its stem, with the ids behind it: same hash tag, same slot.
-- Expects: unfed, due, mails, cancels, records (two keys, three stems), strangers, strangers_allowed, record_ms; `items`, one list with `WIDTH`
-- values a message, and `AGENT`, the place of the agent's id among them; `repeated`, the verdict on what ended its task before, in this very
-- message; and `enter(at, is_alone)`, which puts what is said at that place into its feed, where that is done in the same step. It comes first:
-- a full Redis, or a feed that is none, refuses it before anything has changed. The last thing a script does is `close_settled()`.
--@include _end_task
-- How often agents spoke of tasks without a record: read for all of the batch with the first one who does, and written once.
local spoke, counts, were_counted = nil, {}, nil
local function read_strangers()
  local agents = {}
  for at = AGENT, #items, WIDTH do agents[#agents + 1] = items[at] end
  local found = asked_in_slices(agents, function(...) return redis.call('HMGET', strangers, ...) end)
  spoke = {}
  for i = 1, #agents do
    spoke[agents[i]] = tonumber(found[i] or 0)
    were_counted = were_counted or found[i]
  end
end
local allowed = tonumber(strangers_allowed)
local function is_kept(agent)
  if not spoke then read_strangers() end
  local count = spoke[agent] + 1
  spoke[agent], counts[#counts + 1] = count, agent
  counts[#counts + 1] = int(count)
  return count <= allowed
end
local function close_settled()
  if #counts > 0 then
    in_slices(counts, function(...) redis.call('HSET', strangers, ...) end)
    if not were_counted and redis.call('PTTL', strangers) < 0 then redis.call('PEXPIRE', strangers, record_ms) end
  end
  close_ends()
end
local forgotten_at = int(now_ms + record_ms)
-- `owed`: the entry as JSON, owed from here on; '' where it enters its feed in this step. Returns the verdict: see settle.lua.
local function settle(at, agent, task, kind, status, by, owed, exit_code, error_msg, error_code)
  local record = records .. agent .. ':' .. task
  local state = state_of(record)
  local open = state == 'pending' or state == 'sent' or state == 'running'
  local has_ended = state and not open
  local is_owed = has_ended and redis.call('HEXISTS', unfed, 'r:' .. agent .. ':' .. task) == 1
  if not state and (kind == 'end' or kind == 'progress') and not is_kept(agent) then
    enter(at, true)
    if owed ~= '' then book('owed', redis.call('HSET', unfed, 'r:' .. agent .. ':' .. task, owed)) end
    return 2
  end
  if kind == 'end' or kind == 'lost' then
    local ends = not state or open and kind == 'end'
    local is_the_same = has_ended and redis.call('HGET', record, 'by') == by
    if not ends and not (is_the_same and is_owed) then return is_the_same and repeated or 0 end
    enter(at)
    if ends then
      end_task(unfed, due, state and mails .. agent, state and cancels .. agent, record, state, agent, task, status, by, owed, exit_code, error_msg, error_code)
      if owed == '' then redis.call('PEXPIREAT', record, forgotten_at) end
    end
    return 1
  end
  if open and state ~= 'running' then redis.call('HSET', record, 'state', 'running') end
  if kind == 'life' then return open and 0 or tonumber(redis.call('HGET', record, 'ended') or -1) end
  if has_ended and not is_owed then return 0 end
  enter(at)
  return 1
end
