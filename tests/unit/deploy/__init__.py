"""What lies in `deploy/`, looked at without running a cluster."""
