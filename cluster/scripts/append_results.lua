-- Results enter their feed: each message once, one end a task, nothing after it; and an execution's progress is counted on.
-- KEYS  1 feed  2 seen  3 seen:0  4 seen:1  then the executions of this batch
-- ARGV  1 items: [hash of the message id, hash of the task, index of its execution or '0', the values of NAMES...]  2 generation ms
--       3 ms an execution is remembered
-- Returns how many were written
local NAMES = {'task_id', 'execution_id', 'agent_id', 'host_id', 'status', 'exit_code', 'error_msg', 'error_code', 'started_at', 'finished_at',
  'log_size', 'log_pointer', 'received_at', 'message_id'}
local COUNTS = {'total', 'success', 'failed', 'running', 'pending'}
local STATE = {success = 'success', failed = 'failed', cancelled = 'failed', running = 'running', pending = 'pending'}
--@include _time
local clock, sets, generation_ms = KEYS[2], {KEYS[3], KEYS[4]}, tonumber(ARGV[2])
--@include _seen
local ENDED = {success = true, failed = true}
-- A host counts by its latest end: a step of it that begins after another's end takes nothing back.
local function count(execution, host, state)
  local before = redis.call('HGET', execution, 'h:' .. host)
  if before ~= state and (ENDED[state] or not ENDED[before]) then
    redis.call('HSET', execution, 'h:' .. host, state)
    redis.call('HINCRBY', execution, state, 1)
    redis.call('HINCRBY', execution, before or 'total', before and -1 or 1)
    redis.call('PEXPIRE', execution, ARGV[3])
  end
  local n = redis.call('HMGET', execution, unpack(COUNTS))
  for i = 1, 5 do n[i] = n[i] or '0' end
  n[6] = int(math.floor((n[2] + n[3]) * 100 / math.max(tonumber(n[1]), 1)))
  return n
end
local entry = {KEYS[1], '*'}
for i, name in ipairs(NAMES) do entry[1 + 2 * i] = name end
for i, name in ipairs({'total_hosts', 'success_hosts', 'failed_hosts', 'running_hosts', 'pending_hosts', 'progress'}) do entry[29 + 2 * i] = name end
local items, ids = cjson.decode(ARGV[1]), {}
for _, m in ipairs(items) do ids[#ids + 1] = m[1] ids[#ids + 1] = m[2] end
local seen, new, written = known(ids), {}, 0
for _, m in ipairs(items) do
  if not seen[m[1]] and not seen[m[2]] then
    local n = {'0', '0', '0', '0', '0', '0'}
    if m[3] ~= '0' and STATE[m[8]] then n = count(KEYS[4 + m[3]], m[7], STATE[m[8]]) end
    for i = 1, 14 do entry[2 + 2 * i] = m[3 + i] end
    for i = 1, 6 do entry[30 + 2 * i] = n[i] end
    redis.call('XADD', unpack(entry))
    written = written + 1
    seen[m[1]] = true
    new[#new + 1] = m[1]
    if m[8] == 'success' or m[8] == 'failed' or m[8] == 'cancelled' then
      seen[m[2]] = true
      new[#new + 1] = m[2]
    end
  end
end
remember(new)
return written
