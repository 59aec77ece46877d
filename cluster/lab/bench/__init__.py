"""`agent-server bench`: what the cluster costs on this machine, and what its parts cost alone. `run` knows the scenarios, `figures` the targets."""
