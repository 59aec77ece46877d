-- Owed entries are in their feed: nothing is owed any more. An ended task's record lives on as long as resends may come.
-- KEYS  1 unfed  then for each item: record, or 1 again for what has none
-- ARGV  1 items: [field of unfed]  2 ms a record lives after its end
-- Returns nothing
for i, m in ipairs(cjson.decode(ARGV[1])) do
  redis.call('HDEL', KEYS[1], m[1])
  if KEYS[1 + i] ~= KEYS[1] then redis.call('PEXPIRE', KEYS[1 + i], ARGV[2]) end
end
