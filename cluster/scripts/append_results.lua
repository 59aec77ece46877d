-- Results enter their feed: one end a task, nothing after it, other messages once; and an execution's progress is counted on.
-- An end is known by its task alone: an agent that uses a message id twice would else lose the end of the second task.
-- KEYS  1 feed  2 seen  3 seen:0  4 seen:1  5 stem of executions
-- ARGV  1 items: [hash of the message id ('' of an end), hash of the task, execution or '0', host, entry: see cluster/feeds.py, ResultEntry]
--       2 generation ms  3 ms an execution is remembered
-- Returns how many were written
local NAMES = {'agent_id', 'task_id', 'status', 'exit_code', 'error_msg', 'error_code', 'started_at', 'finished_at', 'log_size', 'log_pointer',
  'received_at', 'message_id'}
local COUNTS = {'total', 'success', 'failed', 'running', 'pending'}
local STATE = {success = 'success', failed = 'failed', cancelled = 'failed', running = 'running', pending = 'pending'}
local ENDED = {success = true, failed = true}
--@include _time
local clock, sets, generation_ms = KEYS[2], {KEYS[3], KEYS[4]}, tonumber(ARGV[2])
--@include _seen
local prolonged = {}
-- A host counts by its latest end: a step of it that begins after another's end takes nothing back.
local function count(execution, host, state)
  local r = redis.call('HMGET', execution, 'h:' .. host, unpack(COUNTS))
  local before, n = r[1], {}
  for i, name in ipairs(COUNTS) do n[name] = tonumber(r[1 + i] or 0) end
  if before ~= state and (ENDED[state] or not ENDED[before]) then
    local also = before or 'total'
    n[state] = n[state] + 1
    n[also] = n[also] + (before and -1 or 1)
    redis.call('HSET', execution, 'h:' .. host, state, state, n[state], also, n[also])
    if not prolonged[execution] then redis.call('PEXPIRE', execution, ARGV[3]) end
    prolonged[execution] = true
  end
  return {n.total, n.success, n.failed, n.running, n.pending, math.floor((n.success + n.failed) * 100 / math.max(n.total, 1))}
end
local NONE = {0, 0, 0, 0, 0, 0}
local entry = {KEYS[1], '*', 'execution_id', '', 'host_id', ''}
for i, name in ipairs(NAMES) do entry[5 + 2 * i] = name end
for i, name in ipairs({'total_hosts', 'success_hosts', 'failed_hosts', 'running_hosts', 'pending_hosts', 'progress'}) do entry[29 + 2 * i] = name end
local items, ids = cmsgpack.unpack(ARGV[1]), {}
for _, m in ipairs(items) do
  ids[#ids + 1] = m[2]
  if m[1] ~= '' then ids[#ids + 1] = m[1] end
end
local seen, new, written = known(ids), {}, 0
for _, m in ipairs(items) do
  local e = m[5]
  local state = STATE[e[3]]
  local identity = ENDED[state] and m[2] or m[1]
  if not seen[identity] and not seen[m[2]] then
    local n = state and e[14] and m[3] ~= '0' and count(KEYS[5] .. m[3], m[4], state) or NONE
    entry[4], entry[6] = m[3], m[4]
    for i = 1, 12 do entry[6 + 2 * i] = e[i] end
    for i = 1, 6 do entry[30 + 2 * i] = n[i] end
    redis.call('XADD', unpack(entry))
    written = written + 1
    seen[identity] = true
    new[#new + 1] = identity
  end
end
remember(new)
return written
