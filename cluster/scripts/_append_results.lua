-- Results enter their feed: one end a task, nothing after it, other messages once; and an execution's progress is counted on.
-- An end is known by its task alone: an agent that uses a message id twice would else lose the end of the second task.
-- `items` is one list, `WIDTH` values a message: a list for each message would cost as much as a command. A message goes by `at`, the place
-- before its values: 1 hash of its id ('' of an end), 2 hash of the task, 3 execution or '0', 4 host, 5 to 18 the entry (cluster/feeds.py,
-- ResultEntry).
-- Expects: items, WIDTH, feed, executions (a stem), execution_ms, and what _seen.lua expects.
local COUNTS = {'total', 'success', 'failed', 'running', 'pending'}
local STATE = {success = 'success', failed = 'failed', cancelled = 'failed', running = 'running', pending = 'pending'}
local ENDED = {success = true, failed = true}
--@include _seen
-- Numbers travel as text: Redis would make it of them itself, at many times the price.
local text = setmetatable({}, {__index = function(texts, n)
  texts[n] = string.format('%d', n)
  return texts[n]
end})
-- A value of this length makes Redis find a field at once; it would read through all of them for each host.
local WIDE = string.rep('-', 65)
-- An execution is read once and written once, however many of its hosts are told of.
local touched = {}
local function ask_for(execution, host)
  local p = touched[execution]
  if not p then
    p = {n = {}, asked = {unpack(COUNTS)}, hosts = {}, changed = {}}
    touched[execution] = p
  end
  local field = 'h:' .. host
  p.asked[#p.asked + 1] = field
end
local function read_progress()
  for execution, p in pairs(touched) do
    local fields = p.asked
    local found = asked_in_slices(fields, function(...) return redis.call('HMGET', executions .. execution, ...) end)
    for i = 1, #COUNTS do p.n[fields[i]] = tonumber(found[i] or 0) end
    for i = #COUNTS + 1, #fields do p.hosts[fields[i]] = found[i] end
  end
end
-- A host counts by its latest end: a step of it that begins after another's end takes nothing back.
local function count(execution, host, state)
  local p, field = touched[execution], 'h:' .. host
  local n, before = p.n, p.hosts[field]
  if before ~= state and (ENDED[state] or not ENDED[before]) then
    local also = before or 'total'
    n[state] = n[state] + 1
    n[also] = n[also] + (before and -1 or 1)
    p.hosts[field], p.changed[field] = state, state
  end
  local percent = math.floor((n.success + n.failed) * 100 / math.max(n.total, 1))
  return text[n.total], text[n.success], text[n.failed], text[n.running], text[n.pending], text[percent]
end
local function write_progress()
  for execution, p in pairs(touched) do
    if next(p.changed) then
      local fields = {}
      for _, name in ipairs(COUNTS) do
        fields[#fields + 1] = name
        fields[#fields + 1] = text[p.n[name]]
      end
      if p.n.total > 64 and p.n.total <= 512 then
        fields[#fields + 1] = 'wide'
        fields[#fields + 1] = WIDE
      end
      for host, state in pairs(p.changed) do
        fields[#fields + 1] = host
        fields[#fields + 1] = state
      end
      in_slices(fields, function(...) redis.call('HSET', executions .. execution, ...) end)
      redis.call('PEXPIRE', executions .. execution, execution_ms)
    end
  end
end
local seen, new = {}, {}
-- Executions are read here too: a key of theirs that is no hash refuses the batch before any of it is written.
local function see()
  local ids = {}
  for at = 0, #items - 1, WIDTH do
    local message, task, execution = items[at + 1], items[at + 2], items[at + 3]
    if execution ~= '0' and items[at + 18] and STATE[items[at + 7]] then ask_for(execution, items[at + 4]) end
    if task ~= '' then ids[#ids + 1] = task end
    if message ~= '' then ids[#ids + 1] = message end
  end
  read_progress()
  seen = known(ids)
end
local function append(at, is_alone)
  local task, execution, host, state = items[at + 2], items[at + 3], items[at + 4], STATE[items[at + 7]]
  local identity = ENDED[state] and task or items[at + 1]
  if seen[identity] or seen[task] then return end
  local total, success, failed, running, pending, percent = '0', '0', '0', '0', '0', '0'
  if state and items[at + 18] and not is_alone and execution ~= '0' then
    total, success, failed, running, pending, percent = count(execution, host, state)
  end
  redis.call('XADD', feed, '*', 'execution_id', execution, 'host_id', host, 'agent_id', items[at + 5], 'task_id', items[at + 6],
    'status', items[at + 7], 'exit_code', items[at + 8], 'error_msg', items[at + 9], 'error_code', items[at + 10],
    'started_at', items[at + 11], 'finished_at', items[at + 12], 'log_size', items[at + 13], 'log_pointer', items[at + 14],
    'received_at', items[at + 15], 'message_id', items[at + 16], 'total_hosts', total, 'success_hosts', success, 'failed_hosts', failed,
    'running_hosts', running, 'pending_hosts', pending, 'progress', percent)
  seen[identity] = true
  new[#new + 1] = identity
end
local function close_feed()
  write_progress()
  remember(new)
end
