-- Who owns the agents of a batch, read at once. Expects: items, lists that begin with an agent id; KEYS[1] owners; asked_in_slices.
local agents, owners = {}, {}
for i = 1, #items do agents[i] = items[i][1] end
local owners_found = asked_in_slices(agents, function(...) return redis.call('HMGET', KEYS[1], ...) end)
for i = 1, #agents do owners[agents[i]] = owners_found[i] end
