-- Results that were settled before enter their feed. Returns how many were written.
-- KEYS  1 feed  2 seen  3 seen:0  4 seen:1  5 stem of executions
-- ARGV  1 items: see _append_results.lua  2 generation ms  3 ms an execution is remembered
--@include _time
--@include _slices
local feed, clock, sets, executions = KEYS[1], KEYS[2], {KEYS[3], KEYS[4]}, KEYS[5]
local generation_ms, execution_ms = tonumber(ARGV[2]), ARGV[3]
local items, WIDTH = cmsgpack.unpack(ARGV[1]), 18
--@include _append_results
see()
for at = 0, #items - 1, WIDTH do append(at) end
close_feed()
return #new
