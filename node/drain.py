"""How agents are let go of: all of them at a node's end or on an operator's word, or some, so that they find another node.

uvicorn would close every socket in one moment; here they go in slices. Of each slice, in this order: nothing more is read from it and
nothing more is marked for it -> what was marked is written, what was read is in its feed and acked -> its sockets close with 1012.
Bounded: a slice waits `FLUSH_S` at the most, all of them together as well, and at the deadline what is left is dropped. An agent that
does not read holds up nobody: its link gives it some seconds, and then ends by itself.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from cluster import close_codes
from cluster.errors import StoreUnavailable
from node.delivery import Courier
from node.hub import Hub
from node.presence import FAST_PER_S, Presence, slices
from node.reports import Reports
from node.session import Session
from node.uplink import Uplink

FLUSH_S = 3.0  # what acks and takes under way may take before sockets close
AGAIN_S = 0.25  # until it is looked who came in the last moment
REASON = "drained"

logger = logging.getLogger(__name__)


class Drain:
    """Lets agents of one node go."""

    def __init__(self, hub: Hub, courier: Courier, uplink: Uplink, presence: Presence, reports: Reports) -> None:
        self._hub = hub
        self._courier = courier
        self._uplink = uplink
        self._presence = presence
        self._reports = reports

    async def everybody(self, deadline_s: float, per_s: float = FAST_PER_S) -> None:
        """Ends all sessions within `deadline_s`, and those of handshakes that were under way; releases and reports them."""
        agents = len(self._hub)
        try:
            async with asyncio.timeout(deadline_s):
                while len(self._hub):
                    await self.some(list(self._hub), per_s)
                    await self._emptied()
        except TimeoutError:
            logger.warning("%d of %d connections did not close in time", len(self._hub), agents)
            for session in self._hub:
                session.abort()
            await asyncio.sleep(0)  # the loop tells the sessions
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(2.0):
                await self._presence.settled()
                await self._reports.flush()
        logger.info("drained %d agents", agents)

    async def some(self, sessions: Sequence[Session], per_s: float) -> None:
        """Closes these sessions, so many a second."""
        loop = asyncio.get_running_loop()
        patience_s = FLUSH_S
        for part, pause_s in slices([session for session in sessions if session.is_open], per_s):
            began_s = loop.time()
            try:
                await self._settled(part, patience_s)
            finally:  # taken back in the middle: who was stopped is let go of all the same
                for session in part:
                    session.close(close_codes.RESTARTING, REASON)
            took_s = loop.time() - began_s
            patience_s = max(0.0, patience_s - max(0.0, took_s - pause_s))
            await asyncio.sleep(max(0.0, pause_s - took_s))

    async def _settled(self, part: Sequence[Session], patience_s: float) -> None:
        """What these sessions were handed is written, what they sent is acked; or the patience is at its end."""
        for session in part:
            if session.link is not None:
                session.link.pause()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._courier.leave(part)
                await asyncio.gather(self._uplink.results.caught_up(), self._uplink.logs.caught_up())

    async def _emptied(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_S):
                await self._hub.emptied()
