-- Ends an open task: its entry is owed to the results feed from here on, and the record answers for it.
-- The owed entry is written first, so that a full Redis refuses before anything changed. The record is made anew of what outlives the
-- task: a hash that once held a task's JSON keeps the costly encoding, a small new one has the compact one (a third of the memory).
-- `entry` is '' where it is in the feed already. Where tasks ended is left with `close_ends()`, the last thing a script does; until then they
-- are still named there.
-- `state`: what the record says, false where there is none. `error_msg` is short (cluster/reasons.py): it is told to whoever asks for the task.
--@include _ledger
local KEPT = {'cancel', 'sum', 'answer', 'created', 'sent', 'attempts'}
local function state_of(record) return redis.call('HGET', record, 'state') end
local now_text = int(now_ms)
-- Most mailboxes lose one task a batch: a name is a name, several are a list.
local left = {}
local function gone(key, member)
  local before = left[key]
  if not before then left[key] = member
  elseif type(before) == 'string' then left[key] = {before, member}
  else before[#before + 1] = member end
end
local function close_ends()
  for key, members in pairs(left) do
    if type(members) == 'string' then redis.call('ZREM', key, members)
    else in_slices(members, function(...) redis.call('ZREM', key, ...) end) end
  end
  close_books()
end
-- What outlives the task, in the place where that of the task before was: of all of a batch it is one list.
local kept, size = {'state', '', 'by', '', 'ended', now_text}, 6
local function keep(name, value)
  kept[size + 1], kept[size + 2] = name, value
  size = size + 2
end
local function end_task(unfed, due, mail, cancels, record, state, agent, task, status, by, entry, exit_code, error_msg, error_code)
  if entry ~= '' then book('owed', redis.call('HSET', unfed, 'r:' .. agent .. ':' .. task, entry)) end
  kept[2], kept[4], size = status, by, 6
  local r = state and redis.call('HMGET', record, unpack(KEPT))
  if r then
    for i = 1, #KEPT do if r[i] then keep(KEPT[i], r[i]) end end
  end
  if exit_code ~= '0' or status ~= 'success' then keep('exit_code', exit_code) end
  if error_msg ~= '' then keep('error_msg', error_msg) end
  if error_code ~= '0' then keep('error_code', error_code) end
  if r then redis.call('DEL', record) end
  redis.call('HSET', record, unpack(kept, 1, size))
  if r then
    book('ended', 1)
    gone(mail, task)
    gone(due, agent .. ':' .. task)
    if r[1] then gone(cancels, task) end
  end
end

-- An end of the cluster's own: exit code -1, started_at 0, finished now. Field order: cluster/feeds.py, ResultEntry.
local function own_end(unfed, due, mail, cancels, record, agent, task, status, text, code)
  local by = 'end:' .. agent .. ':' .. task
  local entry = cjson.encode({agent, task, status, '-1', text, code, '0', time[1], '0', '', now_text, by})
  end_task(unfed, due, mail, cancels, record, state_of(record), agent, task, status, by, entry, '-1', text, code)
  return entry
end
