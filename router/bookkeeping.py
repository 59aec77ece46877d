"""The cluster's books and what there is in it, read every few seconds for the metrics: the same from each router.

Knows the ledger and the census, and no key.
"""

import asyncio
import contextlib

from cluster.census import Census, Counted
from cluster.errors import StoreUnavailable
from cluster.ledger import Books, Ledger

EVERY_S = 5.0


class Bookkeeping:
    """Follows both. What was read last still is the best guess while Redis is away."""

    def __init__(self, ledger: Ledger, census: Census) -> None:
        self._ledger = ledger
        self._census = census
        self.ledger = Books()
        self.census = Counted()

    async def run(self) -> None:
        """Reads, for ever."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                self.ledger = await self._ledger.books()
                self.census = await self._census.take()
            await asyncio.sleep(EVERY_S)
