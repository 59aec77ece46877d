-- Redis time is the cluster's only clock: a process whose own clock is an hour off changes nothing.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(n) return string.format('%.0f', n) end
