-- Results enter their feed: one end a task, nothing after it, other messages once; and an execution's progress is counted on.
-- An end is known by its task alone: an agent that uses a message id twice would else lose the end of the second task.
-- Expects: feed, executions (a stem), execution_ms, and what _seen.lua expects; `known` and `count_on` see to all that was appended.
local NAMES = {'agent_id', 'task_id', 'status', 'exit_code', 'error_msg', 'error_code', 'started_at', 'finished_at', 'log_size', 'log_pointer',
  'received_at', 'message_id'}
local COUNTS = {'total', 'success', 'failed', 'running', 'pending'}
local STATE = {success = 'success', failed = 'failed', cancelled = 'failed', running = 'running', pending = 'pending'}
local ENDED = {success = true, failed = true}
--@include _seen
-- Numbers travel as text: Redis would make it of them itself, at many times the price.
local texts = {}
local function text(n)
  local known = texts[n]
  if not known then
    known = string.format('%d', n)
    texts[n] = known
  end
  return known
end
-- A value of this length makes Redis find a field at once; it would read through all of them for each host.
local WIDE = string.rep('-', 65)
-- An execution is read once and written once, however many of its hosts are told of.
local touched = {}
local function progress_of(execution, host)
  local p = touched[execution]
  if not p then
    local r = redis.call('HMGET', executions .. execution, unpack(COUNTS))
    p = {n = {}, hosts = {}, changed = {}}
    for i, name in ipairs(COUNTS) do p.n[name] = tonumber(r[i] or 0) end
    touched[execution] = p
  end
  if p.hosts[host] == nil then p.hosts[host] = redis.call('HGET', executions .. execution, 'h:' .. host) end
  return p
end
-- A host counts by its latest end: a step of it that begins after another's end takes nothing back.
local function count(execution, host, state)
  local p = progress_of(execution, host)
  local n, before = p.n, p.hosts[host]
  if before ~= state and (ENDED[state] or not ENDED[before]) then
    local also = before or 'total'
    n[state] = n[state] + 1
    n[also] = n[also] + (before and -1 or 1)
    p.hosts[host], p.changed['h:' .. host] = state, state
  end
  local percent = math.floor((n.success + n.failed) * 100 / math.max(n.total, 1))
  return {text(n.total), text(n.success), text(n.failed), text(n.running), text(n.pending), text(percent)}
end
local function write_progress()
  for execution, p in pairs(touched) do
    if next(p.changed) then
      local fields = {}
      for _, name in ipairs(COUNTS) do
        fields[#fields + 1] = name
        fields[#fields + 1] = text(p.n[name])
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
local NONE = {'0', '0', '0', '0', '0', '0'}
local entry = {feed, '*', 'execution_id', '', 'host_id', ''}
for i, name in ipairs(NAMES) do entry[5 + 2 * i] = name end
for i, name in ipairs({'total_hosts', 'success_hosts', 'failed_hosts', 'running_hosts', 'pending_hosts', 'progress'}) do entry[29 + 2 * i] = name end
local seen, new = {}, {}
-- Executions are read here too: a key of theirs that is no hash refuses the batch before any of it is written.
local function see(items)
  local ids = {}
  for _, m in ipairs(items) do
    if m[3] ~= '0' and m[5][14] and STATE[m[5][3]] then progress_of(m[3], m[4]) end
    if m[2] ~= '' then ids[#ids + 1] = m[2] end
    if m[1] ~= '' then ids[#ids + 1] = m[1] end
  end
  seen = known(ids)
end
-- `m`: [hash of the message id ('' of an end), hash of the task, execution or '0', host, entry: see cluster/feeds.py, ResultEntry]
local function append(m, is_alone)
  local e = m[5]
  local state = STATE[e[3]]
  local identity = ENDED[state] and m[2] or m[1]
  if seen[identity] or seen[m[2]] then return end
  local n = state and e[14] and not is_alone and m[3] ~= '0' and count(m[3], m[4], state) or NONE
  entry[4], entry[6] = m[3], m[4]
  for i = 1, 12 do entry[6 + 2 * i] = e[i] end
  for i = 1, 6 do entry[30 + 2 * i] = n[i] end
  redis.call('XADD', unpack(entry))
  seen[identity] = true
  new[#new + 1] = identity
end
local function close_feed()
  write_progress()
  remember(new)
end
