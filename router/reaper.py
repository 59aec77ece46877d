"""What time ends: leases that ran out, tasks that are due, entries still owed, agents that stayed away, feeds that grew.

Every router runs one; all of it may run twice, or ten times. Rules:

- The lease never lies; the sweep of deadlines only says where to look. What `release` finds expired is offline, once.
- No sweep while Redis is slow (a round trip over 1 s) or away, nor for as long after a stall as the stall was: nodes could not renew
  meanwhile, and connected agents must not be declared dead.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from cluster import close_codes
from cluster.debts import Debts
from cluster.errors import FeedBlocked, StoreUnavailable
from cluster.feeds import Feeds
from cluster.inbox import Inbox
from cluster.mailbox import Mailbox
from cluster.redis_client import Store
from cluster.registry import Overdue, Owner, Registry, Release
from cluster.trimming import Trimmer

SWEEP_S = 0.5
SLOW_S = 1.0
FIRST_GRACE_S = 3.0  # the least that nodes get to renew in
LIMIT = 500

logger = logging.getLogger(__name__)


class Reaper:
    """The sweeps of one router."""

    def __init__(
        self, store: Store, registry: Registry, mailbox: Mailbox, feeds: Feeds, inbox: Inbox, trimmer: Trimmer,
        *, is_alive: Callable[[Owner], bool], counts: dict[str, int],
    ) -> None:  # fmt: skip
        """`is_alive`: whether the process of a claim is in the node directory."""
        self._store = store
        self._registry = registry
        self._mailbox = mailbox
        self._feeds = feeds
        self._inbox = inbox
        self._trimmer = trimmer
        self._debts = Debts(store, feeds)
        self._is_alive = is_alive
        self._counts = counts
        self._stalled_since: float | None = None
        self._clock_ahead_s: float | None = None
        self._grace_until = time.monotonic() + FIRST_GRACE_S  # nodes that start beside this router renew first
        self._works: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (SWEEP_S, self._expire_leases),
            (1.0, self._end_tasks),
            (2.0, self._pay),
            (5.0, self._trim),
            (30.0, self._forget),
        ]

    async def run(self) -> None:
        """Sweeps, for ever."""
        due = [0.0] * len(self._works)
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                if not await self._may_sweep():
                    continue
                for n, (every_s, work) in enumerate(self._works):
                    if time.monotonic() >= due[n]:
                        due[n] = time.monotonic() + every_s
                        with contextlib.suppress(FeedBlocked):  # what is owed stays owed, and the other sweeps go on
                            await work()
            except StoreUnavailable as error:
                self._stall(time.monotonic())
                logger.debug("sweep put off: %s", error)

    async def _may_sweep(self) -> bool:
        asked = time.monotonic()
        round_trip_s = await self._store.sync_clock()
        now = time.monotonic()
        if round_trip_s > SLOW_S or self._has_leapt(now):
            self._stall(asked)
            return False
        if self._stalled_since is not None:
            stalled_s = now - self._stalled_since
            self._stalled_since = None
            grace_s = min(max(stalled_s, FIRST_GRACE_S), self._registry.timeout_ms / 1000)
            self._grace_until = max(self._grace_until, now + grace_s)  # a short stall takes nothing from a longer one's
            logger.info("Redis was away or slow for %.1f s: leases get %.1f s", stalled_s, self._grace_until - now)
        return now >= self._grace_until

    def _has_leapt(self, now: float) -> bool:
        """Whether Redis's clock moved by itself: leases end by it, and a leap ends them all at once."""
        before, self._clock_ahead_s = self._clock_ahead_s, self._store.now_ms() / 1000 - now
        return before is not None and abs(self._clock_ahead_s - before) > SLOW_S

    def _stall(self, since: float) -> None:
        if self._stalled_since is None:
            self._stalled_since = since

    # ---- the sweeps

    async def _expire_leases(self) -> None:
        full = True
        while full:
            overdue = await self._registry.overdue(LIMIT)
            full = len(overdue) >= LIMIT
            if overdue:
                await self._expire(overdue)

    async def _expire(self, overdue: list[Overdue]) -> None:
        owed = await self._registry.release([self._verdict(item) for item in overdue])
        gone = [item for item, entry in zip(overdue, owed, strict=True) if entry]
        self._counts["lease_expired"] += len(gone)
        for item in gone:
            logger.info("heartbeat timeout", extra={"agent_id": item.agent_id, "node": item.owner.node})
        reachable = [(item.owner, item.agent_id) for item in gone if self._is_alive(item.owner)]
        await self._inbox.close(reachable, close_codes.HEARTBEAT_TIMEOUT)
        await self._feeds.pay_offline([entry for entry in owed if entry])

    def _verdict(self, item: Overdue) -> Release:
        reason = "heartbeat_timeout" if self._is_alive(item.owner) else "node_lost"
        return Release(item.agent_id, str(item.owner), reason, item.silent_ms, if_expired=True)

    async def _end_tasks(self) -> None:
        owed = await self._mailbox.end_due(LIMIT)
        self._counts["task_overdue"] += len(owed)
        await self._feeds.pay_results(owed)

    async def _pay(self) -> None:
        self._counts["entry_paid"] += await self._debts.pay(time.monotonic())

    async def _trim(self) -> None:
        dropped = await self._trimmer.trim()
        self._counts["entry_trimmed"] += dropped

    async def _forget(self) -> None:
        forgotten = await self._registry.forget_stale(LIMIT)
        self._counts["agent_forgotten"] += len(forgotten)
        await self._feeds.forget_agents(forgotten)
