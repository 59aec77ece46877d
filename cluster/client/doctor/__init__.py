"""`agent-server doctor`: what may be wrong with a cluster, its Redis and the way to it, and what to do about it."""
