"""The ordered end of a node. uvicorn would close every socket in one moment; here they go in slices, after what they sent was acked.

Not ready -> no new sockets -> what was sent is written and acked -> sockets close with 1012, paced -> releases -> statistics -> gone.
Bounded: at the deadline what is left is closed at once.
"""

import asyncio
import contextlib
import logging

from cluster import close_codes
from cluster.errors import StoreUnavailable
from node.hub import Hub
from node.presence import Presence, close_in_slices
from node.reports import Reports
from node.uplink import Uplink

FLUSH_S = 3.0  # of the deadline, what acks may take before sockets close
REASON = "drained"

logger = logging.getLogger(__name__)


async def drain(hub: Hub, uplink: Uplink, presence: Presence, reports: Reports, deadline_s: float) -> None:
    """Ends all sessions within `deadline_s`."""
    agents = len(hub)
    try:
        async with asyncio.timeout(deadline_s):
            await _flushed(uplink)
            await close_in_slices(list(hub), close_codes.RESTARTING, REASON)
            await hub.emptied()
            await _flushed(uplink)
    except TimeoutError:
        logger.warning("%d of %d connections did not close in time", len(hub), agents)
        for session in hub:
            session.abort()
        await asyncio.sleep(0)  # the loop tells the sessions
    with contextlib.suppress(TimeoutError, StoreUnavailable):
        async with asyncio.timeout(2.0):
            await presence.settled()
            await reports.flush()
    logger.info("drained %d agents", agents)


async def _flushed(uplink: Uplink) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            await asyncio.gather(uplink.results.drained(), uplink.logs.drained())
