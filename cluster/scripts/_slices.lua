-- Hands values to a command in slices, because Lua unpacks at most some 8,000 of them: one call with many costs far less than one for each.
local function in_slices(values, run)
  for from = 1, #values, 4000 do run(unpack(values, from, math.min(from + 3999, #values))) end
end
