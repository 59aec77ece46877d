-- Message ids already written, as 63-bit hashes in two generations of sets: an id is remembered for one to two generations.
-- Expects: clock (string key), sets (two set keys), generation_ms; in_slices, asked_in_slices.
local generation = math.floor(now_ms / generation_ms)
local before = tonumber(redis.call('GET', clock) or -2)
local current, previous = sets[1 + generation % 2], sets[1 + (generation + 1) % 2]
if generation ~= before then
  redis.call('SET', clock, int(generation))
  redis.call('UNLINK', current)
  if generation ~= before + 1 then redis.call('UNLINK', previous) end
end
-- Which of these ids were seen: a table with them as keys.
local function known(ids)
  local out = {}
  local a = asked_in_slices(ids, function(...) return redis.call('SMISMEMBER', current, ...) end)
  local b = asked_in_slices(ids, function(...) return redis.call('SMISMEMBER', previous, ...) end)
  for i = 1, #ids do if a[i] == 1 or b[i] == 1 then out[ids[i]] = true end end
  return out
end
local function remember(ids) in_slices(ids, function(...) redis.call('SADD', current, ...) end) end
