-- Status entries enter their feed. Of an epoch `offline` is written once, and nothing of an epoch that is past or closed.
-- `over` is a takeover's `online`: written only where the last word was not that the agent is online (whoever had to say it died).
-- KEYS  1 feed  2 epochs
-- ARGV  1 items: [agent id, epoch, 'on' | 'over' | 'off' | 'any', field, value, ...]
-- Returns how many were written
local written = 0
for _, m in ipairs(cmsgpack.unpack(ARGV[1])) do
  local newest = redis.call('HGET', KEYS[2], m[1]) or '0'
  local epoch, closed = tonumber(string.match(newest, '^%d+')), string.find(newest, 'x', 1, true)
  local mine = tonumber(m[2])
  if m[3] == 'any' or mine > epoch or mine == epoch and not closed then
    if m[3] ~= 'over' or closed or newest == '0' then
      redis.call('XADD', KEYS[1], '*', unpack(m, 4))
      written = written + 1
    end
    if m[3] ~= 'any' then redis.call('HSET', KEYS[2], m[1], m[2] .. (m[3] == 'off' and 'x' or '')) end
  end
end
return written
