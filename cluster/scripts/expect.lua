-- Accepted tasks are counted into their executions: a host that is new to one is pending there.
-- KEYS  1 stem of executions
-- ARGV  1 items: [execution, host]  2 ms an execution is remembered
-- Returns nothing
for _, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  local execution = KEYS[1] .. m[1]
  if redis.call('HSETNX', execution, 'h:' .. m[2], 'pending') == 1 then
    redis.call('HINCRBY', execution, 'pending', 1)
    redis.call('HINCRBY', execution, 'total', 1)
    redis.call('PEXPIRE', execution, ARGV[2])
  end
end
