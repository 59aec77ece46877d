-- Message ids already written, as 63-bit hashes in two generations of sets: an id is remembered for one to two generations.
-- Expects: clock (string key), sets (two set keys), generation_ms; in_slices.
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
  in_slices(ids, function(...)
    local a, b = redis.call('SMISMEMBER', current, ...), redis.call('SMISMEMBER', previous, ...)
    for i, id in ipairs({...}) do if a[i] == 1 or b[i] == 1 then out[id] = true end end
  end)
  return out
end
local function remember(ids) in_slices(ids, function(...) redis.call('SADD', current, ...) end) end
