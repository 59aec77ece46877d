"""What every process of the cluster shares: the wire, Redis, settings; and the launcher and the command line. Imports neither node nor router."""
