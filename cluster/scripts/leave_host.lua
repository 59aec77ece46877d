-- An agent that stayed away loses its host id to another agent.
-- KEYS  1 agent
-- ARGV  1 host id
-- Returns nothing
if redis.call('HGET', KEYS[1], 'host_id') == ARGV[1] then redis.call('HSET', KEYS[1], 'host_id', '') end
