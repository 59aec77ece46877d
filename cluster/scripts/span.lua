-- How many entries of a feed lie between two ids, a page at the most, and where that page ends: no entry travels.
-- KEYS  1 feed
-- ARGV  1 first id  2 last id, both as XRANGE has them  3 entries at the most
-- Returns {how many, the id of the last of them or ''}
local page = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
return {#page, #page > 0 and page[#page][1] or ''}
