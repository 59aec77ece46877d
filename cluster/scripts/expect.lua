-- Accepted tasks are counted into their executions: a host that is new to one is pending there.
-- KEYS  1 stem of executions
-- ARGV  1 items: [execution, host], no two alike  2 ms an execution is remembered
-- Returns nothing
--@include _slices
local hosts_of = {} -- an execution is read once and written once, however many hosts it gets
for _, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  local hosts = hosts_of[m[1]] or {}
  hosts[#hosts + 1] = 'h:' .. m[2]
  hosts_of[m[1]] = hosts
end
for id, hosts in pairs(hosts_of) do
  local execution, new = KEYS[1] .. id, {}
  local found = asked_in_slices(hosts, function(...) return redis.call('HMGET', execution, ...) end)
  for i, host in ipairs(hosts) do
    if not found[i] then
      new[#new + 1] = host
      new[#new + 1] = 'pending'
    end
  end
  if #new > 0 then
    in_slices(new, function(...) redis.call('HSET', execution, ...) end)
    redis.call('HINCRBY', execution, 'pending', #new / 2)
    redis.call('HINCRBY', execution, 'total', #new / 2)
    redis.call('PEXPIRE', execution, ARGV[2])
  end
end
