"""From the mailbox to the socket: what waits for the agents that are connected here.

Owns the reading of this node's inbox; knows neither scripts nor how a socket writes. Rules:

- Doorbells only say where to look. One take call is in flight, for all agents that rang meanwhile; it marks, then we write.
- A session that does not read is not handed more; it is looked after again when it has drained.
- After a claim, what earlier sessions were handed is judged twice: shortly after (an outbox may bring results first) for tasks of an
  earlier process of the agent, and after the grace for tasks without a sign of life.
- What was marked is written: before a socket is closed on purpose nothing more is marked for it, and what is under way is waited for.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from cluster import close_codes, messages, task_trail
from cluster.errors import StoreUnavailable
from cluster.feeds import Feeds
from cluster.histogram import Histogram
from cluster.inbox import ORDERS, Inbox, Note
from cluster.mailbox import Delivery, Mailbox, Take, Taken
from node.frames import text_frame
from node.hub import Hub
from node.session import Session

TAKES = 256  # in one call
RETRY_S = 0.25
OUTBOX_S = 2.0  # what a restarted agent's outbox brings within this time ends its tasks by their real results
TRIM_EVERY = 1000  # notes
CLOCKS_MS = 1000  # by less than that a node is wrong about Redis's clock

logger = logging.getLogger(__name__)


class Courier:
    """Delivers to the sessions of one node."""

    def __init__(
        self, node_id: str, hub: Hub, inbox: Inbox, mailbox: Mailbox, feeds: Feeds,
        *, redelivery_grace_s: float, now_ms: Callable[[], int], count: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._hub = hub
        self._inbox = inbox
        self._mailbox = mailbox
        self._feeds = feeds
        self._grace_s = redelivery_grace_s
        self._now_ms = now_ms
        self._count = count
        self._marking: Counter[Session] = Counter()  # for whom a call that marks tasks is under way
        self._marked = asyncio.Event()
        self._rung: dict[str, Session] = {}
        self._wake = asyncio.Event()
        self._resuming: set[asyncio.Task[None]] = set()
        # From a task's acceptance until it was written; for agents that were connected when it was accepted, and that came later.
        self.waits = {"connected": Histogram(), "waited": Histogram()}

    @property
    def waiting(self) -> int:
        """How many sessions have rung and were not served yet."""
        return len(self._rung)

    # ---- what makes us look

    def ring(self, session: Session) -> None:
        """Something may wait for this session."""
        self._rung[session.agent_id] = session
        self._wake.set()

    def start(self, session: Session) -> None:
        """A session has begun: what waits for it goes at once, what earlier ones were handed is judged."""
        self.ring(session)
        if session.unended:
            task = asyncio.create_task(self._resume(session), name=f"resume {session.agent_id}")
            self._resuming.add(task)
            task.add_done_callback(self._resumed)

    def _resumed(self, task: asyncio.Task[None]) -> None:
        self._resuming.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())

    async def read_inbox(self, on_order: Callable[[Note], None]) -> None:
        """Follows this node's inbox, for ever; `on_order` gets what is for the node itself."""
        last, trimmed = "0", 0
        while True:
            try:
                last, notes = await self._inbox.read(self._node_id, last)
                for note in notes:
                    (on_order if note.kind in ORDERS else self._on_note)(note)
                trimmed += len(notes)
                if trimmed >= TRIM_EVERY:
                    trimmed = 0
                    await self._inbox.trim(self._node_id, last)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)

    def _on_note(self, note: Note) -> None:
        session = self._hub.get(note.agent_id)
        if session is None:
            return
        if note.kind == "ring":
            self.ring(session)
        elif note.epoch != session.epoch:
            self._count("stale_note")
        elif note.kind == "close":
            _close(session, int(note.data))
        elif note.kind == "send" and self._now_ms() <= note.deadline_ms:
            session.send(note.data, "control")

    # ---- what was never sent

    async def deliver(self) -> None:
        """Takes and writes for those that rang, for ever."""
        while True:
            await self._wake.wait()
            sessions = self._next()
            if not sessions:
                self._wake.clear()
                continue
            with self._marks(sessions):
                is_answered = await self._deliver(sessions)
            if not is_answered:
                await asyncio.sleep(RETRY_S)

    async def _deliver(self, sessions: list[Session]) -> bool:
        try:
            deliveries = await self._mailbox.take([_take(session) for session in sessions])
        except StoreUnavailable:
            self._rung.update((s.agent_id, s) for s in sessions if s.agent_id not in self._rung)
            return False
        for session, delivery in zip(sessions, deliveries, strict=True):
            self._write(session, delivery)
        return True

    def _next(self) -> list[Session]:
        """Those that are to be served now. Who does not read is left out: its link says when it has drained."""
        rung, self._rung = self._rung, {}
        ready = [session for session in rung.values() if session.is_writable and not session.is_leaving]
        self._rung.update((session.agent_id, session) for session in ready[TAKES:])
        return ready[:TAKES]

    def _write(self, session: Session, delivery: Delivery | None) -> None:
        if delivery is None:  # another owns the agent; renewal would find it within seconds
            session.close(close_codes.REPLACED)
            return
        if not session.is_writable:  # it stopped reading meanwhile; once it has drained the same is handed out again
            return
        self._send(session, delivery.tasks, delivery.cancelled)
        session.cursor = max(session.cursor, delivery.cursor)
        session.cancels = delivery.cancels
        if delivery.more:
            self.ring(session)

    def _send(self, session: Session, tasks: Iterable[Taken], cancelled: list[str]) -> None:
        """All of it in one write: the link bears one piece of any size for a reader that keeps up."""
        frames: list[bytes] = []
        kinds: list[str] = []
        is_followed = task_trail.is_followed()
        for batch, group in groupby(tasks, lambda task: task.batch):
            members = list(group)
            if batch:
                message_id = f"{batch}:{members[0].seq}"
                session.note_batch(message_id, tuple(task.id for task in members))
                frames.append(messages.tasks_batch(message_id, [task.json for task in members]))
                kinds.append("tasks_batch")
            else:
                frames += [messages.task(task.id, task.json) for task in members]
                kinds += ["task"] * len(members)
            for task in members:
                session.note_sent(task.id)
                self._note_wait(session, task)
                if is_followed:
                    task_trail.tell("sent", session.agent_id, task.id, epoch=session.epoch)
        if len(cancelled) == 1:
            frames.append(messages.cancel_task(cancelled[0]))
        elif cancelled:
            frames.append(messages.cancel_tasks_batch(cancelled))
        if frames:
            whole = [text_frame(frame) for frame in frames]
            for kind, frame in zip([*kinds, "cancel"], whole, strict=False):
                session.note_sent_frame(kind, len(frame))
            session.send_frames(b"".join(whole))

    def _note_wait(self, session: Session, task: Taken) -> None:
        if not task.created_ms:
            self._count("task_redelivered")
            return
        self._count("task_sent")
        kind = "connected" if task.created_ms >= session.since_ms - CLOCKS_MS else "waited"
        self.waits[kind].observe(max(0, self._now_ms() - task.created_ms) / 1000)

    # ---- before sockets are closed on purpose

    async def leave(self, sessions: Sequence[Session]) -> None:
        """Marks nothing more for these sessions; returns once all that was marked for them is written."""
        for session in sessions:
            session.is_leaving = True
        while any(session in self._marking for session in sessions):
            self._marked.clear()
            await self._marked.wait()

    @contextlib.contextmanager
    def _marks(self, sessions: Sequence[Session]) -> Iterator[None]:
        self._marking.update(sessions)
        try:
            yield
        finally:
            self._marking -= Counter(sessions)
            self._marked.set()

    # ---- what earlier sessions were handed

    async def _resume(self, session: Session) -> None:
        await asyncio.sleep(OUTBOX_S)
        await self._resume_phase(session, "claim")
        await asyncio.sleep(max(0.0, self._grace_s - OUTBOX_S))
        await self._resume_phase(session, "grace")

    async def _resume_phase(self, session: Session, phase: str) -> None:
        again, after = False, 0
        while await _is_writable_again(session) and not session.is_leaving:
            try:
                with self._marks([session]):
                    resumed = await self._mailbox.resume(
                        session.agent_id, session.owner, session.claimed_at, phase=phase, again=again, after=after
                    )
                    self._send(session, resumed.tasks, [])
            except StoreUnavailable:
                again = True
                await asyncio.sleep(RETRY_S)
                continue
            await self._pay(resumed.owed)
            if not resumed.go_on:
                return
            again, after = False, resumed.go_on

    async def _pay(self, owed: list[bytes]) -> None:
        try:
            await self._feeds.pay_results(owed)
        except StoreUnavailable:
            logger.debug("%d results stay owed; the reaper writes them", len(owed))


def _take(session: Session) -> Take:
    return Take(session.agent_id, session.owner, session.cursor, session.cancels)


async def _is_writable_again(session: Session) -> bool:
    """Waits for a session that does not read; False when it is gone."""
    while session.link is not None and not session.is_writable:  # noqa: ASYNC110 - who never reads is closed within seconds
        await asyncio.sleep(RETRY_S)
    return session.link is not None


def _close(session: Session, code: int) -> None:
    reasons = {close_codes.REVOKED: "revoked", close_codes.HEARTBEAT_TIMEOUT: "heartbeat_timeout"}
    session.close(code, reasons.get(code, "websocket_closed"))
