"""Who this node owns, and that they live: claims, leases, releases.

Owns the rhythm of renewal; knows neither frames nor tasks. Rules:

- A session is claimed before it is accepted; the newest wins, and the process that held the agent before is told to close.
- No Redis write a heartbeat: every third of the timeout the leases of agents heard since are prolonged, many in one call, each to
  the time it was last heard plus the timeout. Who was silent for longer is renewed when about a third of what is left has passed, so
  that agents which could not be heard (a node that stood still, a network away) have their whole lease soon after they are.
- The lease is the one authority. What renewal finds lost is closed: 4409 when another owns it, 4408 when it ran out, 4403 when the
  agent was forgotten.
- Redis away: sockets stay open for `AWAY_S`, then they are closed so that the agents' outboxes take over.
- Redis back and empty: registrations and claims are put back from memory. An agent is looked at every second, so that it is seen soon.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence

from cluster import close_codes
from cluster.batching import Batcher
from cluster.errors import PeerError, Refused, StoreUnavailable
from cluster.inbox import Inbox
from cluster.nodes import NodeDirectory
from cluster.registry import (
    EXPIRED,
    HAS_CANCELS,
    HAS_MAIL,
    REVOKED,
    TAKEN_OVER,
    UNKNOWN,
    Bid,
    Claim,
    Contested,
    Owner,
    Registry,
    Release,
    Renewal,
)
from node.hub import Hub
from node.session import Session

AWAY_S = 90.0
RENEW_ITEMS = 200  # in one call
RETRY_S = 0.25
SOONEST_S = 1.0  # an agent is heard with the resolution of the wheel
SLICE = 200  # sockets closed in one go, at the most
SLICE_S = 0.05
FAST_PER_S = SLICE / SLICE_S

logger = logging.getLogger(__name__)


class Presence:
    """The claims of one node's sessions."""

    def __init__(  # noqa: PLR0913 - one for each room it works with
        self, node_id: str, boot: str, hub: Hub, registry: Registry, inbox: Inbox, directory: NodeDirectory,
        *, on_mail: Callable[[Session], None], on_forgotten: Callable[[Session], None], on_release: Callable[[bytes], None],
        count: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`on_mail`: something waits for a session; `on_forgotten`: Redis came back without its agent; `on_release`: an offline entry is owed to the status feed."""
        self._node_id = node_id
        self._boot = boot
        self._hub = hub
        self._registry = registry
        self._inbox = inbox
        self._directory = directory
        self._on_mail = on_mail
        self._on_forgotten = on_forgotten
        self._on_release = on_release
        self._count = count
        self._every_s = registry.timeout_ms / 3000
        # A heap: when the renewal is due, in which order it was asked for.
        self._queue: list[tuple[float, int, Session]] = []
        self._order = itertools.count()
        self._claims: Batcher[Bid, Claim | Contested | PeerError] = Batcher("claim", registry.claim)
        self._releases: Batcher[Release, bytes] = Batcher("release", registry.release)
        self._side: set[asyncio.Task[None]] = set()
        self._answered = asyncio.get_running_loop().time()

    # ---- begin

    async def claim(self, agent_id: str, address: str, token_hash: str) -> Claim | Contested:
        """Makes this node the agent's owner. Raises: UnknownAgent, Refused, WrongToken, StoreUnavailable."""
        outcome = await self._bid(Bid(agent_id, self._node_id, self._boot, address, token_hash))
        if isinstance(outcome, Contested) and not await self._directory.is_beating(outcome.holder):
            outcome = await self._bid(Bid(agent_id, self._node_id, self._boot, address, token_hash, force=True))
        return outcome

    async def _bid(self, bid: Bid) -> Claim | Contested:
        outcome = await self._claims.put(bid)
        if isinstance(outcome, PeerError):
            raise outcome
        return outcome

    def start(self, session: Session, previous: Owner | None) -> None:
        """A claimed session is open: its lease is ours to renew, its predecessor is to close."""
        self._hub.add(session)
        self._renew_in(self._every_s, session)
        if previous is not None and (previous.node, previous.boot) != (self._node_id, self._boot):
            self.aside(self._inbox.close([(previous, session.agent_id)], close_codes.REPLACED), "close predecessor")

    def aside(self, work: Coroutine[None, None, None], name: str) -> None:
        """Does what nobody waits for, and what renewal repairs when Redis is away."""
        task = asyncio.create_task(self._quietly(work), name=name)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    async def _quietly(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except (StoreUnavailable, PeerError) as error:
            logger.debug("left to renewal: %s", error)

    # ---- stay

    async def renew(self) -> None:
        """Prolongs the leases of those heard, for ever."""
        loop = asyncio.get_running_loop()
        pause_s = min(1.0, self._every_s / 4)
        while True:
            due = self._due(loop.time())
            try:
                if due:
                    await self._renew(due)
                self._answered = loop.time()
            except StoreUnavailable:
                queued = {session for _, _, session in self._queue}  # some of them were renewed
                for session in due:
                    if session not in queued:
                        self._renew_in(0.0, session)
                await self._endure(loop.time() - self._answered)
                await asyncio.sleep(RETRY_S)
            if len(due) < RENEW_ITEMS:
                await asyncio.sleep(pause_s)

    def _renew_in(self, seconds: float, session: Session) -> None:
        heapq.heappush(self._queue, (asyncio.get_running_loop().time() + seconds, next(self._order), session))

    def _pause_s(self, session: Session) -> float:
        """Until its next renewal."""
        silent_s = session.age_ms / 1000
        if silent_s <= self._every_s:
            return self._every_s
        return max(SOONEST_S, self._every_s - silent_s / 3)

    def _due(self, now: float) -> list[Session]:
        """Those whose time has come, or else the next one."""
        due: list[Session] = []
        while self._queue and (self._queue[0][0] <= now or not due) and len(due) < RENEW_ITEMS:
            _, _, session = heapq.heappop(self._queue)
            if self._hub.get(session.agent_id) is session and session.link is not None:
                due.append(session)
        return due

    async def _renew(self, sessions: list[Session]) -> None:
        outcomes = await self._registry.renew([_renewal(session) for session in sessions])
        forgotten: list[Session] = []
        for session, outcome in zip(sessions, outcomes, strict=True):
            if outcome >= 0:
                self._renew_in(self._pause_s(session), session)
                if outcome & (HAS_MAIL | HAS_CANCELS):
                    self._on_mail(session)
            elif outcome == UNKNOWN:
                forgotten.append(session)
                self._renew_in(self._every_s, session)
            else:
                self._lose(session, outcome)
        if forgotten:
            await self._put_back(forgotten)

    def _lose(self, session: Session, outcome: int) -> None:
        self._count("lease_lost")
        codes = {
            TAKEN_OVER: close_codes.REPLACED, EXPIRED: close_codes.HEARTBEAT_TIMEOUT, REVOKED: close_codes.REVOKED,
        }  # fmt: skip
        session.close(codes[outcome])

    async def _put_back(self, sessions: list[Session]) -> None:
        """Redis forgot the agents of live sessions: they are registered and claimed again, under newer epochs; the others are looked at now."""
        done = set(sessions)
        others, self._queue = self._queue, []
        for _, _, session in others:
            if session not in done:
                self._renew_in(0.0, session)
        for session in sessions:
            self._on_forgotten(session)
        await self._registry.put_back([session.profile for session in sessions])
        bids = [Bid(s.agent_id, self._node_id, self._boot, s.address, token_hash="", force=True) for s in sessions]
        for session, outcome in zip(sessions, await self._registry.claim(bids), strict=True):
            if isinstance(outcome, Claim):
                session.own(outcome)
                self._renew_in(self._every_s, session)
                self._on_mail(session)
            elif isinstance(outcome, Refused):
                self._lose(session, REVOKED)
        logger.warning("%d agents were put back into a Redis that had forgotten them", len(sessions))

    async def _endure(self, away_s: float) -> None:
        """Redis does not answer: after a while the sockets are closed, a slice a pass."""
        if away_s < AWAY_S or not len(self._hub):
            return
        logger.warning("Redis has been away for %d s: %d connections are closed", away_s, len(self._hub))
        await close_in_slices(list(self._hub), close_codes.RESTARTING, "websocket_closed")

    @property
    def is_away_too_long(self) -> bool:
        """Whether Redis has been away for so long that agents are better off with their outboxes."""
        return asyncio.get_running_loop().time() - self._answered > AWAY_S

    # ---- go

    def end(self, session: Session) -> None:
        """A session is gone: its ownership ends, if it is still its own."""
        self._hub.discard(session)
        self.aside(self._release(session), "release")

    async def _release(self, session: Session) -> None:
        release = Release(session.agent_id, session.owner, session.reason, session.age_ms)
        owed = await self._releases.submit(release)
        if owed:
            self._on_release(owed)

    async def settled(self) -> None:
        """Returns when all that was begun aside has ended."""
        while self._side:
            await asyncio.wait(self._side)


def _renewal(session: Session) -> Renewal:
    return Renewal(session.agent_id, session.owner, session.age_ms, session.cancels)


def slices(sessions: Sequence[Session], per_s: float) -> Iterator[tuple[Sequence[Session], float]]:
    """Parts to be closed in one go, each with the pause in s that is to follow; so that not all agents come back in one moment."""
    size = max(1, min(SLICE, int(per_s * SLICE_S)))
    for start in range(0, len(sessions), size):
        yield sessions[start : start + size], size / per_s if start + size < len(sessions) else 0.0


async def close_in_slices(sessions: Sequence[Session], code: int, reason: str, per_s: float = FAST_PER_S) -> None:
    """Closes sessions a slice at a time."""
    for part, pause_s in slices(sessions, per_s):
        for session in part:
            session.close(code, reason)
        await asyncio.sleep(pause_s)
