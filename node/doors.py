"""Whether this node takes agents: from its start until it drains - for good, or until an operator takes it back.

Owns the state that the directory shows, and what an operator's order began; knows neither sockets nor Redis. Rules:

- Draining, it is not ready, routers hand nothing over, and handshakes on its own port get 503; it stays up, and its agents go in slices.
- A newer order takes the place of the one under way; the end of the process that of every order. A process that is started again is ready.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

from cluster import nodes
from cluster.admin import Readiness
from cluster.errors import StartError, StoreUnavailable
from cluster.inbox import Note
from node.adoption import Adoption
from node.drain import Drain
from node.hub import Hub
from node.presence import FAST_PER_S
from node.session import Session

DRAIN_S = 12.0  # beside what the pace takes; a node's part of the stop budget

logger = logging.getLogger(__name__)


class Doors:
    """The entrance of one node."""

    def __init__(
        self, hub: Hub, drain: Drain, readiness: Readiness, adoption: Adoption | None,
        *, announce: Callable[[], Awaitable[object]], now_ms: Callable[[], int],
    ) -> None:  # fmt: skip
        """`announce`: tells the directory of a change; `now_ms`: Redis's time."""
        self._hub = hub
        self._drain = drain
        self._readiness = readiness
        self._adoption = adoption
        self._announce = announce
        self._now_ms = now_ms
        self._work: asyncio.Task[None] | None = None
        self._is_ending = False
        self.state = nodes.STARTING
        self.since_ms = 0

    @property
    def are_open(self) -> bool:
        """Whether agents may come in."""
        return self.state == nodes.READY

    async def open(self) -> None:
        """Takes agents, from now on or again. Raises: StartError."""
        if self._adoption is not None and not self.are_open:
            await self._adoption.start()
        await self._change(nodes.READY)
        self._readiness.is_serving = True

    async def end(self) -> None:
        """Drains for good, within `DRAIN_S`."""
        self._is_ending = True
        await _cancelled(self._work)
        await self._drained(FAST_PER_S, DRAIN_S)

    async def drain(self) -> None:
        """Drains, at the pace of an end; returns once it has."""
        self._begin("drain", partial(self._drained, FAST_PER_S, DRAIN_S))
        if self._work is not None:
            await asyncio.wait({self._work})

    def on_order(self, note: Note) -> None:
        """What an operator wants of this node."""
        numbers = [float(part) for part in note.data.split()]
        match note.kind, numbers:
            case "drain", [per_s]:
                self._begin("drain", partial(self._drained, per_s, DRAIN_S + len(self._hub) / per_s))
            case "undrain", _:
                self._begin("undrain", self.open)
            case "move", [count, per_s] if self.are_open:
                self._begin("move", partial(self._drain.some, self._idlest(int(count)), per_s))

    def _idlest(self, count: int) -> list[Session]:
        return sorted(self._hub, key=lambda session: len(session.live))[:count]

    def _begin(self, name: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._work = asyncio.create_task(self._instead(self._work, name, work), name=name)

    async def _instead(
        self, before: asyncio.Task[None] | None, name: str, work: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        await _cancelled(before)
        if self._is_ending:
            return
        logger.info("ordered: %s", name)
        try:
            await work()
        except StartError as error:
            logger.error("%s: %s", name, error)  # noqa: TRY400 - a line, no traceback
        except Exception:
            logger.exception("%s failed", name)

    async def _drained(self, per_s: float, deadline_s: float) -> None:
        self._readiness.is_serving = False
        if self._adoption is not None:
            self._adoption.stop()
        await self._change(nodes.DRAINING)
        await self._drain.everybody(deadline_s, per_s)

    async def _change(self, state: str) -> None:
        if state == self.state:
            return
        self.state, self.since_ms = state, self._now_ms()
        with contextlib.suppress(StoreUnavailable):  # the next beat says it
            await self._announce()


async def _cancelled(work: asyncio.Task[None] | None) -> None:
    if work is not None and not work.done():
        work.cancel()
        await asyncio.wait({work})
