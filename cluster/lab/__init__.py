"""The reference agent, the simulated fleet and the bench: what tries the cluster from outside, over its wire alone."""
