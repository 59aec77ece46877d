-- Hands values to a command in slices, because Lua unpacks at most some 8,000 of them: one call with many costs far less than one for each.
local function in_slices(values, run)
  for from = 1, #values, 4000 do run(unpack(values, from, math.min(from + 3999, #values))) end
end
-- The same for a command that answers to each value: the answers.
local function asked_in_slices(values, ask)
  local answers = {}
  in_slices(values, function(...)
    local part, before = ask(...), #answers
    for i = 1, #part do answers[before + i] = part[i] end
  end)
  return answers
end
