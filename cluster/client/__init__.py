"""The command line's side of the HTTP API: what an operator asks of a cluster that runs."""
