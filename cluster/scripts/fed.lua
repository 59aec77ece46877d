-- Owed entries are in their feed: nothing is owed any more. An ended task's record lives on as long as resends may come.
-- KEYS  1 unfed  2 stem of records: `r:<agent>:<task>` in unfed is `<stem><agent>:<task>`  3 ledger
-- ARGV  1 fields of unfed  2 ms a record lives after its end
-- Returns nothing
--@include _slices
--@include _ledger
local fields = cmsgpack.unpack(ARGV[1])
in_slices(fields, function(...) book('paid', redis.call('HDEL', KEYS[1], ...)) end)
for _, field in ipairs(fields) do
  if string.sub(field, 1, 2) == 'r:' then redis.call('PEXPIRE', KEYS[2] .. string.sub(field, 3), ARGV[2]) end
end
close_books()
