-- What stops a script half-way - a key of one agent that is not of our type - is told when what was done until then is whole.
local function whole(run, close)
  local is_done, failure = pcall(run)
  close()
  if not is_done then error(failure, 0) end
end
