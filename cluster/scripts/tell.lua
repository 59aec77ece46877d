-- What agents say of tasks, settled and put into its feed in one step: nothing is owed in between. For a single Redis, whose keys lie together.
-- KEYS  1 unfed  2 due  3 stem of mailboxes  4 stem of cancels  5 stem of records  6 stem of strangers
--       7 feed  8 seen  9 seen:0  10 seen:1  11 stem of executions  12 ledger
-- ARGV  1 items: [as in _append_results.lua: 1 to 5, 'end' | 'lost' | 'progress' | 'life', error message for the record]
--       2 messages of one agent about tasks without a record that leave something behind  3 ms in which they are counted, and a record lives
--       4 generation ms  5 ms an execution is remembered
-- Returns for each item: 1 written, 2 the same, and it left nothing else behind, 0 not to be written, 3 written before, by the same message; for 'life' as settle.lua; last: how many entries are new
--@include _time
--@include _slices
local unfed, due, mails, cancels, records, strangers, feed, clock = unpack(KEYS, 1, 8)
local sets, executions, strangers_allowed, record_ms = {KEYS[9], KEYS[10]}, KEYS[11], ARGV[2], ARGV[3]
local generation_ms, execution_ms = tonumber(ARGV[4]), ARGV[5]
--@include _append_results
local enter, repeated = append, 3
--@include _settle
local items, out = cmsgpack.unpack(ARGV[1]), {}
see(items)
for i, m in ipairs(items) do
  local e = m[5]
  out[i] = settle(m, e[1], e[2], m[6], e[3], e[12], '', e[4], m[7], e[6])
end
close_feed()
out[#items + 1] = #new
close_ends()
return out
