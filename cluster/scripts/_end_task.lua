-- Ends an open task: its entry is owed to the results feed from here on, and the record answers for it.
-- The owed entry is written first, so that a full Redis refuses before anything changed. The record is made anew of what outlives the
-- task: a hash that once held a task's JSON keeps the costly encoding, a small new one has the compact one (a third of the memory).
-- `told`: exit code, error message (short, see cluster/reasons.py), error code, as they are told to whoever asks for the task.
local OUTLIVES = {'sum', 'answer', 'created', 'sent', 'attempts', 'cancel'}
local function end_task(unfed, due, mail, cancels, record, agent, task, status, by, entry, told)
  redis.call('HSET', unfed, 'r:' .. agent .. ':' .. task, entry)
  local kept = {'state', status, 'by', by, 'ended', int(now_ms)}
  local function keep(name, value) kept[#kept + 1] = name kept[#kept + 1] = value end
  for i, value in ipairs(redis.call('HMGET', record, unpack(OUTLIVES))) do if value then keep(OUTLIVES[i], value) end end
  if told[1] ~= '0' or status ~= 'success' then keep('exit_code', told[1]) end
  if told[2] ~= '' then keep('error_msg', told[2]) end
  if told[3] ~= '0' then keep('error_code', told[3]) end
  redis.call('DEL', record)
  redis.call('HSET', record, unpack(kept))
  redis.call('ZREM', mail, task)
  redis.call('ZREM', cancels, task)
  redis.call('ZREM', due, agent .. ':' .. task)
end

-- An end of the cluster's own: exit code -1, started_at 0, finished now. Field order: cluster/feeds.py, ResultEntry.
local function own_end(unfed, due, mail, cancels, record, agent, task, status, text, code)
  local by = 'end:' .. agent .. ':' .. task
  local entry = cjson.encode({agent, task, status, '-1', text, code, '0', time[1], '0', '', int(now_ms), by})
  end_task(unfed, due, mail, cancels, record, agent, task, status, by, entry, {'-1', text, code})
  return entry
end
