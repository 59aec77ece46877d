"""What agents send on its way to the feeds, and the acks on their way back.

Owns the queues between sockets and Redis; knows neither frames nor scripts. Rules:

- Nothing is acked before it is in its stream, or is known never to be written.
- A lane has one call in flight; what arrives meanwhile is the next batch. Idle it answers at once; busy, its calls keep a distance, because a
  call costs more than an entry: the more came in one, the longer.
- A batch that Redis did not answer is tried again until it does: writing twice is harmless. Nothing is dropped.
- A Redis that came back empty has lost the tasks that agents hold: those end here, behind what agents said before.
- The read path never waits. A lane that is full stops reading from the sockets that fill it, which close after some seconds.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

from msgspec import Struct

from cluster import messages, task_trail
from cluster.errors import StoreUnavailable
from cluster.feeds import Feeds, ResultEntry
from cluster.histogram import Histogram
from cluster.mailbox import APPEND_ALONE, OPEN, UNKNOWN, Mailbox, Said
from cluster.messages import LogLine, Result
from cluster.outcomes import Outcomes, Told, is_written
from node.frames import text_frame
from node.session import Session, Tally

BATCH_ITEMS = 256
BATCH_BYTES = 1 << 20
FULL_ITEMS = 20_000
FULL_BYTES = 64 << 20
RETRY_S = 0.25
PACE_S = 0.01  # between the beginnings of a busy lane's calls: no ack is later than that for it
WORTH_ITEMS = 16  # in a call; where fewer come, the distance is as much shorter, and ends below 1,600 a second
LATE_MS = 15 * 60_000  # log lines of a task that ended longer ago are ghosts of an outbox
ASK_AGAIN_S = 60  # how long a task is taken to be open without asking
KNOWN_TASKS = 1000  # of one session
ERROR_CHARS = 64 << 10  # of a result's error_msg and log_pointer
STATUS_CHARS = 64  # of its status, whatever an agent calls it
TIMED_TOGETHER = 16  # neighbours in a batch, which came at about the same time
SAY_AGAIN_S = 60.0  # between warnings of one kind
ITEM_BYTES = 512  # what an entry without long texts is taken to weigh
LOST, INTERNAL = "lost: Redis came back without this task, it may have run", "1001"

logger = logging.getLogger(__name__)


class ResultItem(Struct, gc=False):
    """A result, or a sign of life of a task (no message id: nobody waits for an ack). `duration_ms` is None when not told."""

    session: Session
    message_id: str
    told: Told
    duration_ms: int | None = None
    size: int = ITEM_BYTES
    came_s: float = 0.0  # when its lane took it


class LogItem(Struct, gc=False):
    """One log message: the fields of its lines as flat pairs."""

    session: Session
    message_id: str
    task_id: str
    lines: list[list[str]]
    size: int
    came_s: float = 0.0  # when its lane took it


Item = TypeVar("Item", ResultItem, LogItem)


class Lane(Generic[Item]):
    """A queue with one writer, which takes batches in order and keeps each until it is written."""

    def __init__(self, name: str, write: Callable[[list[Item]], Awaitable[None]]) -> None:
        self.name = name
        self._write: Callable[[list[Item]], Awaitable[None]] = write
        self._queue: deque[Item] = deque()
        self.size_bytes = 0
        self.waits = Histogram()  # until the ack was written
        self._done = 0  # items written so far
        self._progress = asyncio.Event()
        self._held: set[Session] = set()
        self._filled = asyncio.Event()
        self.is_retrying = False  # the batch was written before, perhaps, and nobody said so

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, item: Item) -> None:
        """Takes an item. A full lane stops reading from the socket that brought it; the item is taken all the same."""
        item.came_s = monotonic()
        if not self._queue:
            self._filled.set()
        self._queue.append(item)
        self.size_bytes += item.size
        if (len(self._queue) > FULL_ITEMS or self.size_bytes > FULL_BYTES) and item.session.link is not None:
            item.session.link.pause()
            self._held.add(item.session)

    async def run(self) -> None:
        """Writes what comes, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            began = loop.time()
            batch = self._next_batch()
            while not await self._written(batch):
                self.is_retrying = True
                await asyncio.sleep(RETRY_S)
            self.is_retrying = False
            _acknowledge(batch)
            self._note_waits(batch)
            self._drop(batch)
            left_s = began + PACE_S * min(1.0, len(batch) / WORTH_ITEMS) - loop.time()
            if 0 < len(self._queue) < BATCH_ITEMS and left_s > 0:
                await asyncio.sleep(left_s)

    async def caught_up(self) -> None:
        """Returns when all that has come so far is written and acked."""
        last = self._done + len(self._queue)
        while self._done < last:
            self._progress.clear()
            await self._progress.wait()

    def _next_batch(self) -> list[Item]:
        batch: list[Item] = []
        size = 0
        for item in self._queue:
            if batch and (len(batch) >= BATCH_ITEMS or size + item.size > BATCH_BYTES):
                break
            batch.append(item)
            size += item.size
        return batch

    async def _written(self, batch: list[Item]) -> bool:
        try:
            await self._write(batch)
        except StoreUnavailable as error:
            logger.debug("%s: %d entries wait: %s", self.name, len(self._queue), error)
            return False
        return True

    @property
    def oldest_s(self) -> float:
        """For how long the oldest item waits."""
        return monotonic() - self._queue[0].came_s if self._queue else 0.0

    def _note_waits(self, batch: Sequence[Item]) -> None:
        now_s = monotonic()
        for start in range(0, len(batch), TIMED_TOGETHER):
            ids = [item.message_id for item in batch[start : start + TIMED_TOGETHER]]
            self.waits.observe(now_s - batch[start].came_s, len(ids) - ids.count(""))  # who has none waits for no ack

    def _drop(self, batch: Sequence[Item]) -> None:
        for _ in batch:
            self.size_bytes -= self._queue.popleft().size
        self._done += len(batch)
        self._progress.set()
        if not self._queue:
            self._filled.clear()
        if self._held and len(self._queue) < FULL_ITEMS // 2 and self.size_bytes < FULL_BYTES // 2:
            held, self._held = self._held, set()
            for session in held:
                if session.link is not None:
                    session.link.resume()


def _acknowledge(batch: Sequence[ResultItem] | Sequence[LogItem]) -> None:
    """One write a connection, however many of its messages were in the batch."""
    frames: dict[Session, list[bytes]] = {}
    for item in batch:
        if item.message_id:
            frames.setdefault(item.session, []).append(text_frame(messages.ack(item.message_id)))
    for session, parts in frames.items():
        session.send_acks(parts)


class Uplink:
    """The lanes of a node: results with signs of life, and log lines."""

    def __init__(
        self, outcomes: Outcomes, mailbox: Mailbox, feeds: Feeds,
        *, now_ms: Callable[[], int], count: Callable[[str, int], None], on_end: Callable[[Session], None],
    ) -> None:  # fmt: skip
        """`on_end`: a session's tally changed."""
        self._outcomes = outcomes
        self._mailbox = mailbox
        self._feeds = feeds
        self._now_ms = now_ms
        self._count = count
        self._on_end = on_end
        self._places = itertools.count()
        self._say_at_s = 0.0
        self.results = Lane("results", self._write_results)
        self.logs = Lane("logs", self._write_logs)

    # ---- from the sessions

    def put_result(self, session: Session, message_id: str, task_id: str, result: Result) -> None:
        """A result. The spurious answer to a task that the agent has finished is a sign of life, and is acked."""
        status = (result.status or "")[:STATUS_CHARS]
        if task_trail.is_followed():
            task_trail.tell("result came", session.agent_id, task_id, status=status, message_id=message_id)
        skipped = status == "cancelled" and result.error_msg == messages.SKIPPED
        kind = "life" if skipped else "end" if status in messages.ENDS else "progress"
        entry = self._entry(session.agent_id, message_id, task_id, status, result)
        size = ITEM_BYTES + len(entry.error_msg) + len(entry.log_pointer)
        self.results.put(ResultItem(session, message_id, Told(kind, entry), _duration_ms(result), size))

    def put_sign_of_life(self, session: Session, task_ids: Sequence[str]) -> None:
        """The agent has these tasks."""
        if task_trail.is_followed():
            for task_id in task_ids:
                task_trail.tell("in hand", session.agent_id, task_id)
        for task_id in task_ids:
            told = Told("life", self._entry(session.agent_id, "", task_id, "", Result()))
            self.results.put(ResultItem(session, "", told))

    def put_lost(self, session: Session) -> None:
        """Redis has forgotten this session's agent: of the tasks that it was sent, those that Redis forgot too end."""
        now_ms = self._now_ms()
        for task_id in session.sent:
            entry = ResultEntry(
                session.agent_id, task_id, "failed", "-1", LOST, INTERNAL, "0", str(now_ms // 1000), "0", "", str(now_ms),
                f"end:{session.agent_id}:{task_id}", next(self._places),
            )  # fmt: skip
            self.results.put(ResultItem(session, "", Told("lost", entry)))
            session.note_end(task_id)  # the lane keeps it from here on, however often Redis is found without the agent

    def put_log(self, session: Session, message_id: str, task_id: str, lines: list[LogLine]) -> None:
        """A log message."""
        fields = _line_fields(session.agent_id, message_id, task_id, lines, self._now_ms)
        size = sum([ITEM_BYTES + len("".join(pairs)) for pairs in fields])
        self.logs.put(LogItem(session, message_id, task_id, fields, size))

    def _entry(self, agent_id: str, message_id: str, task_id: str, status: str, result: Result) -> ResultEntry:
        pointer = (result.log_pointer or "")[:ERROR_CHARS] or (f"redis:job_logs/{task_id}@" if result.log_size else "")
        return ResultEntry(
            agent_id, task_id, status, str(result.exit_code or 0), (result.error_msg or "")[:ERROR_CHARS], str(result.error_code or 0),
            str(result.started_at or 0), str(result.finished_at or 0), str(result.log_size or 0), pointer, str(self._now_ms()),
            message_id, next(self._places),
        )  # fmt: skip

    # ---- to the feeds

    async def _write_results(self, batch: list[ResultItem]) -> None:
        verdicts = await self._outcomes.write([item.told for item in batch], is_again=self.results.is_retrying)
        for item, verdict in zip(batch, verdicts, strict=True):
            self._count_result(item, verdict)
        if APPEND_ALONE in verdicts:
            self._count_alone([item for item, verdict in zip(batch, verdicts, strict=True) if verdict == APPEND_ALONE])

    def _count_result(self, item: ResultItem, verdict: int) -> None:
        told, session = item.told, item.session
        if told.is_end:
            session.note_end(told.entry.task_id)
        if is_written(told, verdict):
            self._count("result_" + told.kind, 1)
            if told.is_end:
                self._count_end(session, item)
        elif item.message_id:
            self._count("result_not_written", 1)

    def _count_end(self, session: Session, item: ResultItem) -> None:
        session.live.pop(item.told.entry.task_id, None)
        session.tally = session.tally or Tally()
        session.tally.count(item.told.entry.status, item.duration_ms)
        self._on_end(session)

    def _count_alone(self, alone: list[ResultItem]) -> None:
        for item in alone:
            self._count("result_alone", 1)
            if monotonic() >= self._say_at_s:
                self._say_at_s = monotonic() + SAY_AGAIN_S
                logger.warning(
                    "an agent tells of too many tasks that nobody knows: its results are written, and not remembered",
                    extra={"agent_id": item.session.agent_id},
                )

    async def _write_logs(self, batch: list[LogItem]) -> None:
        late = await self._late(batch)
        kept = [item for item in batch if (item.session.agent_id, item.task_id) not in late] if late else batch
        await self._feeds.append_logs([(item.session.agent_id, item.message_id, item.lines) for item in kept])
        self._count("log", len(kept))
        self._count("log_late", len(batch) - len(kept))

    async def _late(self, batch: list[LogItem]) -> set[tuple[str, str]]:
        """The tasks of these messages that ended too long ago; asking is a sign of life of those that are open."""
        asked = {(i.session.agent_id, i.task_id): i.session for i in batch if not _is_known_open(i.session, i.task_id)}
        if not asked:
            return set()
        verdicts = await self._mailbox.settle([Said(agent_id, task_id, "life") for agent_id, task_id in asked])
        late: set[tuple[str, str]] = set()
        for (task, session), ended_ms in zip(asked.items(), verdicts, strict=True):
            if ended_ms in (OPEN, UNKNOWN):
                _remember_open(session, task[1])
            elif self._now_ms() - ended_ms > LATE_MS:
                late.add(task)
        return late


def _duration_ms(result: Result) -> int | None:
    if not result.started_at or not result.finished_at or result.finished_at < result.started_at:
        return None
    return (result.finished_at - result.started_at) * 1000


def _is_known_open(session: Session, task_id: str) -> bool:
    asked = session.live.get(task_id)
    return asked is not None and session.link is not None and session.link.wheel.now - asked < ASK_AGAIN_S


def _remember_open(session: Session, task_id: str) -> None:
    if session.link is not None:
        if len(session.live) >= KNOWN_TASKS:
            session.live.clear()
        session.live[task_id] = session.link.wheel.now


def _line_fields(
    agent_id: str, message_id: str, task_id: str, lines: Sequence[LogLine], now_ms: Callable[[], int]
) -> list[list[str]]:
    """The entries of the log feed, flat. To the field: the contract."""
    execution = task_id.partition("_")[0]
    entries: list[list[str]] = []
    for line in lines:
        fields = [
            "execution_id", execution, "task_id", task_id, "agent_id", agent_id, "content", line.content or "",
            "timestamp", str(line.timestamp or now_ms() // 1000), "message_id", message_id,
        ]  # fmt: skip
        if line.stream:
            fields += ("stream", line.stream)
        if line.level:
            fields += ("level", line.level)
        if line.host_id:
            fields += ("host_id", str(line.host_id))
        elif (task_host := messages.execution_of(task_id)[1]) != "0":
            fields += ("host_id", task_host)
        if line.host_name:
            fields += ("host_name", line.host_name)
        entries.append(fields)
    return entries
