"""What an operator asks of a cluster, without one."""
