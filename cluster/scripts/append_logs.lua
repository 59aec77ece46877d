-- Log lines enter their feed: each message once, its lines in order.
-- KEYS  1 feed  2 seen  3 seen:0  4 seen:1
-- ARGV  1 items: [hash of the message id, [[field, value, ...] for each line]]  2 generation ms
-- Returns how many messages were written
--@include _time
--@include _slices
local clock, sets, generation_ms = KEYS[2], {KEYS[3], KEYS[4]}, tonumber(ARGV[2])
--@include _seen
local items, ids = cmsgpack.unpack(ARGV[1]), {}
for i, m in ipairs(items) do ids[i] = m[1] end
local seen, new = known(ids), {}
for _, m in ipairs(items) do
  if not seen[m[1]] then
    for _, line in ipairs(m[2]) do redis.call('XADD', KEYS[1], '*', unpack(line)) end
    seen[m[1]] = true
    new[#new + 1] = m[1]
  end
end
remember(new)
return #new
