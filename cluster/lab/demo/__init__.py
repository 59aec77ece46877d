"""`agent-server demo`: a real cluster and its agents on this machine, and a story about them that checks itself."""
