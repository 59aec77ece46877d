"""The real command line as processes: start, agents, tasks, SIGTERM."""
