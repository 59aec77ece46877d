-- Ends an open task: its entry is owed to the results feed from here on, and the record answers for it.
-- The owed entry is written first, so that a full Redis refuses before anything changed.
local function end_task(unfed, due, mail, cancels, record, agent, task, status, by, entry)
  redis.call('HSET', unfed, 'r:' .. agent .. ':' .. task, entry)
  redis.call('HSET', record, 'state', status, 'by', by, 'ended', int(now_ms))
  redis.call('HDEL', record, 'json', 'cancel')
  redis.call('ZREM', mail, task)
  redis.call('ZREM', cancels, task)
  redis.call('ZREM', due, agent .. ':' .. task)
end

-- An end of the cluster's own: exit code -1, started_at 0, finished now. Field order: cluster/feeds.py, ResultEntry.
local function own_end(unfed, due, mail, cancels, record, agent, task, status, text, code)
  local by = 'end:' .. agent .. ':' .. task
  local entry = cjson.encode({agent, task, status, '-1', text, code, '0', time[1], '0', '', int(now_ms), by})
  end_task(unfed, due, mail, cancels, record, agent, task, status, by, entry)
  return entry
end
