"""`python -m cluster` is `agent-server`."""

from cluster.cli import main

if __name__ == "__main__":
    main()
