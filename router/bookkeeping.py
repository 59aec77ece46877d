"""The cluster's books as metrics: read every few seconds, the same from each router.

Knows the ledger, and no key.
"""

import asyncio
import contextlib
from collections.abc import Callable

from cluster.errors import StoreUnavailable
from cluster.ledger import Books, Ledger
from cluster.metrics import Counters

EVERY_S = 5.0
_MEANINGS = {
    "accepted": ("ledger_tasks_accepted", "Tasks accepted since the books were opened"),
    "ended": ("ledger_tasks_ended", "Accepted tasks that have ended"),
    "open": ("ledger_tasks_open", "Accepted tasks that have not ended"),
    "tasks_off": ("ledger_tasks_off", "Tasks that do not add up: not 0 is an alarm (agent-server status --check)"),
    "owed": ("ledger_entries_owed", "Ends of tasks and of connections that were decided"),
    "written": ("ledger_entries_written", "Those that are in their feed"),
    "waiting": ("ledger_entries_waiting", "Those that are not yet"),
    "entries_off": (
        "ledger_entries_off",
        "Entries that do not add up: not 0 is an alarm (agent-server status --check)",
    ),
}


class Bookkeeping:
    """Follows the books."""

    def __init__(self, ledger: Ledger, counters: Counters) -> None:
        self._ledger = ledger
        self._books = Books()
        for field, (name, meaning) in _MEANINGS.items():
            counters.gauge(name, meaning, self._reader(field))

    def _reader(self, field: str) -> Callable[[], float]:
        return lambda: float(getattr(self._books, field))

    async def run(self) -> None:
        """Reads, for ever."""
        while True:
            with contextlib.suppress(StoreUnavailable):  # the last ones still are the best guess
                self._books = await self._ledger.books()
            await asyncio.sleep(EVERY_S)
