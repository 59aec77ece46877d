"""What tests stand on: killable Redis, fault proxy, simulated agents, eventually."""
