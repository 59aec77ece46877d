-- What happens to tasks and to entries is counted in the step in which it happens: accepted = ended + due, owed = paid + unfed.
-- The books are the last key that a script is given; it ends with `close_books()`.
local booked = {}
local function book(field, n) booked[field] = (booked[field] or 0) + n end
local function close_books()
  for field, n in pairs(booked) do if n > 0 then redis.call('HINCRBY', KEYS[#KEYS], field, n) end end
end
