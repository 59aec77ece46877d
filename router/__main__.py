"""`python -m router`: one router."""

import sys

from cluster.service import main
from router.app import serve

if __name__ == "__main__":
    sys.exit(main("router", serve))
