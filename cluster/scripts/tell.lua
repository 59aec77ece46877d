-- What agents say of tasks, settled and put into its feed in one step: nothing is owed in between. For a single Redis, whose keys lie together.
-- KEYS  1 unfed  2 due  3 stem of mailboxes  4 stem of cancels  5 stem of records  6 strangers
--       7 feed  8 seen  9 seen:0  10 seen:1  11 stem of executions  12 ledger
-- ARGV  1 items: as in _append_results.lua, then 19 'end' | 'lost' | 'progress' | 'life', 20 error message for the record
--       2 messages of one agent about tasks without a record that leave something behind  3 ms in which they are counted, and a record lives
--       4 generation ms  5 ms an execution is remembered
-- Returns for each item: 1 written, 2 the same, and it left nothing else behind, 0 not to be written, 3 written before, by the same message; for 'life' as settle.lua; last: how many entries are new
--@include _time
--@include _slices
local unfed, due, mails, cancels, records, strangers, feed, clock = unpack(KEYS, 1, 8)
local sets, executions, strangers_allowed, record_ms = {KEYS[9], KEYS[10]}, KEYS[11], ARGV[2], ARGV[3]
local generation_ms, execution_ms = tonumber(ARGV[4]), ARGV[5]
local items, WIDTH, AGENT = cmsgpack.unpack(ARGV[1]), 20, 5
--@include _append_results
local enter, repeated = append, 3
--@include _settle
see()
local out = {}
for at = 0, #items - 1, WIDTH do
  out[#out + 1] = settle(at, items[at + AGENT], items[at + 6], items[at + 19], items[at + 7], items[at + 16], '', items[at + 8], items[at + 20], items[at + 10])
end
close_feed()
out[#out + 1] = #new
close_settled()
return out
