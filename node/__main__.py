"""`python -m node`: one node."""

import sys

from cluster.service import main
from node.app import serve

if __name__ == "__main__":
    sys.exit(main("node", serve))
