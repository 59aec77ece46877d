-- What agents say of tasks, where it enters its feed in a step of its own: ends are owed until then.
-- KEYS  1 unfed  2 due  3 stem of mailboxes  4 stem of cancels  5 stem of records  6 strangers  7 ledger
-- ARGV  1 items, one list: agent id, task id, 'end' | 'lost' | 'progress' | 'life', status, message id, entry (JSON), exit code, error message, error code
--       2 messages of one agent about tasks without a record that leave something behind  3 ms in which they are counted, and a record lives
-- Returns for each item: 1 append it and ack, 2 the same, but let it leave nothing else behind, 0 ack only; for 'life' the ms at which the task ended, 0 when it is open, -1 when unknown
--@include _time
--@include _slices
local unfed, due, mails, cancels, records, strangers = unpack(KEYS, 1, 6)
local strangers_allowed, record_ms = ARGV[2], ARGV[3]
local items, WIDTH, AGENT = cmsgpack.unpack(ARGV[1]), 9, 1
local repeated = 0
local function enter() end
--@include _settle
local out = {}
for at = 0, #items - 1, WIDTH do out[#out + 1] = settle(at, unpack(items, at + 1, at + WIDTH)) end
close_settled()
return out
