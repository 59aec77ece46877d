-- Log lines enter their feed: each message once, its lines in order.
-- KEYS  1 feed  2 seen  3 seen:0  4 seen:1
-- ARGV  1 items: hash of the message id, how many values follow of it, and of each of its lines: how many values, field, value, ...; all in
--         one list, as one for each line would cost half as much as the line's command  2 generation ms
-- Returns how many messages were written
--@include _time
--@include _slices
local clock, sets, generation_ms = KEYS[2], {KEYS[3], KEYS[4]}, tonumber(ARGV[2])
--@include _seen
local items, ids, starts = cmsgpack.unpack(ARGV[1]), {}, {}
local at = 1
while at < #items do
  ids[#ids + 1], starts[#starts + 1] = items[at], at + 2
  at = at + 2 + items[at + 1]
end
local seen, new = known(ids), {}
for i, id in ipairs(ids) do
  if not seen[id] then
    local line, ends = starts[i], starts[i] + items[starts[i] - 1]
    while line < ends do
      redis.call('XADD', KEYS[1], '*', unpack(items, line + 1, line + items[line]))
      line = line + 1 + items[line]
    end
    seen[id] = true
    new[#new + 1] = id
  end
end
remember(new)
return #new
