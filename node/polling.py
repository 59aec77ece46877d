"""Fetches tasks from the control plane for the agents that are connected here: `control_plane.poll`.

Owns the rhythm; knows neither HTTP nor what becomes of a task that was accepted. Rules:

- Each agent is asked for once an interval, the agents of a node spread over it; at most `AT_ONCE` calls at a time. Where the control
  plane is slower than that, the rounds grow longer.
- A task is taken as if it had been posted, byte for byte; the same one again changes nothing.
- A control plane that fails is left alone for an interval, then twice as long, up to `LONGEST_PAUSE_S`, and is then tried with one call.
- Nothing is fetched while Redis is away or the node drains, nor for an agent whose mailbox is full. What was fetched just before is
  held until it is taken - for an agent with a full mailbox, one task, tried in place of asking: the control plane may not offer it again.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from cluster import messages
from cluster.acceptance import OUTCOMES as ACCEPTED
from cluster.control_plane import Trouble
from cluster.errors import MailboxFull, PeerError, StoreUnavailable
from cluster.http_call import AnswerTooLarge, NoAnswer
from cluster.mailbox import Accepted, Post
from cluster.messages import NewTask
from node.hub import Hub
from node.session import Session

AT_ONCE = 16
LONGEST_PAUSE_S = 60.0
LOOK_S = 0.25  # between looks at whether polling may go on, and at an empty node
RETRY_S = 0.5  # of a task that Redis did not take
STOP_S = 3.0  # what calls under way may take when the node drains
OUTCOMES = (*ACCEPTED, "bad_input", "none", "failed", "full")

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Whom tasks are fetched from."""

    async def next_task(self, agent_id: str, host_id: int) -> bytes | None:
        """A task, or None. Raises: NoAnswer, AnswerTooLarge."""


class Taker(Protocol):
    """Who takes them."""

    async def accept(self, post: Post) -> Accepted:
        """Raises: UnknownAgent, MailboxFull, TaskConflict, StoreUnavailable."""

    async def has_room(self, agent_id: str) -> bool:
        """Whether the agent's mailbox would take a task. Raises: StoreUnavailable."""


class Poller:
    """The polls of one node."""

    def __init__(
        self, source: Source, hub: Hub, taker: Taker, counts: dict[str, int], *, interval_s: float,
        may_poll: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`counts`: by OUTCOMES; `may_poll`: whether Redis answers and the node does not drain."""
        self._source = source
        self._hub = hub
        self._taker = taker
        self._counts = counts
        self._interval_s = interval_s
        self._may_poll = may_poll
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()
        self._trouble = Trouble("tasks are not polled", 3 * interval_s)
        self._failures = 0  # in a row; calls that were under way together count as one
        self._failed = 0  # of all time
        self._paused_until = 0.0
        self._held = 0  # tasks that wait for Redis
        self._kept: dict[str, tuple[Session, NewTask]] = {}  # by agent: a task that waits for room in its mailbox
        self._faults: dict[str, str] = {}  # what was last said about an agent's task
        self._is_stopped = False

    # ---- the rhythm

    async def run(self) -> None:
        """Polls, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            began, sessions = loop.time(), list(self._hub)
            for place, session in enumerate(sessions):
                await _until(began + self._interval_s * place / len(sessions))
                await self._begin(session)
            await self._try_kept()
            self._faults = {agent_id: text for agent_id, text in self._faults.items() if self._hub.get(agent_id)}
            await _until(began + self._interval_s if sessions else loop.time() + min(self._interval_s, LOOK_S))

    async def stop(self) -> None:
        """Begins nothing more, and returns when what was fetched is in its mailbox, or too late for it."""
        self._is_stopped = True
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=STOP_S)
            if self._held:
                logger.warning("Redis is away: %d tasks that were fetched are dropped", self._held)
            for task in late:
                task.cancel()
        if self._kept:
            logger.warning("mailboxes are full: %d tasks that were fetched are dropped", len(self._kept))

    async def _begin(self, session: Session) -> None:
        """Asks for one agent, once there is a turn and nothing forbids it. In trouble, waits for the answer."""
        await self._turns.acquire()
        while not self._is_allowed():  # noqa: ASYNC110 - a clock, Redis and a drain have a say in it; none sets an event
            await asyncio.sleep(LOOK_S)
        if self._hub.get(session.agent_id) is not session or session.link is None:  # gone, or not ours any more
            self._turns.release()
            return
        task = asyncio.create_task(self._poll(session), name=f"poll {session.agent_id}")
        self._under_way.add(task)
        task.add_done_callback(self._done)
        if self._failures:
            await asyncio.wait([task])

    def _is_allowed(self) -> bool:
        is_paused = asyncio.get_running_loop().time() < self._paused_until
        return not (self._is_stopped or self._held or is_paused) and self._may_poll()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._turns.release()
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())

    # ---- one call

    async def _poll(self, session: Session) -> None:
        try:
            if not await self._taker.has_room(session.agent_id):
                self._counts["full"] += 1
                return
        except StoreUnavailable:
            return
        if kept := self._kept.pop(session.agent_id, None):
            await self._accept(session, kept[1])
        else:
            await self._ask(session)

    async def _try_kept(self) -> None:
        """What was fetched for agents that have gone from here is theirs all the same."""
        for agent_id in [agent_id for agent_id in self._kept if self._hub.get(agent_id) is None]:
            await self._accept(*self._kept.pop(agent_id))

    async def _ask(self, session: Session) -> None:
        failed_before = self._failed
        try:
            body = await self._source.next_task(session.agent_id, session.profile.host_id)
        except AnswerTooLarge as error:
            self._refuse(session, f"body: {error}", "bad_input")
            return
        except NoAnswer as error:
            self._counts["failed"] += 1
            self._fail(error, failed_before)
            return
        if failed_before == self._failed:
            self._failures = 0
        self._trouble.end(asyncio.get_running_loop().time())
        if body is None:
            self._counts["none"] += 1
            return
        await self._take(session, body)

    def _fail(self, error: NoAnswer, failed_before: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._trouble.begin(error, now_s)
        if failed_before == self._failed:
            self._failed += 1
            self._failures += 1
            self._paused_until = now_s + min(LONGEST_PAUSE_S, self._interval_s * 2 ** min(self._failures - 1, 20))

    async def _take(self, session: Session, body: bytes) -> None:
        try:
            task = messages.new_task(body)
        except PeerError as error:
            self._refuse(session, str(error), "bad_input")
            return
        await self._accept(session, task)

    async def _accept(self, session: Session, task: NewTask) -> None:
        try:
            await self._insist(Post(session.agent_id, "", [task]))
        except MailboxFull:  # since there was room
            self._kept[session.agent_id] = (session, task)
        except PeerError as error:
            self._refuse(session, f"{error} (task {task.id})")  # counted where it was refused
        else:
            self._faults.pop(session.agent_id, None)

    async def _insist(self, post: Post) -> None:
        """Tries until Redis has it, or says no."""
        held = 0
        try:
            while True:
                try:
                    await self._taker.accept(post)
                except StoreUnavailable:
                    self._held += 1 - held
                    held = 1
                    await asyncio.sleep(RETRY_S)
                else:
                    return
        finally:
            self._held -= held

    def _refuse(self, session: Session, fault: str, outcome: str = "") -> None:
        """A task that cannot be taken comes again with every poll, and is spoken of once."""
        if outcome:
            self._counts[outcome] += 1
        if self._faults.get(session.agent_id) != fault:
            self._faults[session.agent_id] = fault
            logger.warning(
                "a task of the control plane cannot be taken: %s", fault, extra={"agent_id": session.agent_id}
            )


async def _until(time_s: float) -> None:
    await asyncio.sleep(max(0.0, time_s - asyncio.get_running_loop().time()))
