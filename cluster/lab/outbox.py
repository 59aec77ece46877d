"""Messages that must arrive: kept from the moment they are written until the server acks them, in memory and on disk.

Owns which message is to be sent when; knows no sockets. Rules:

- A message keeps its id for ever: the server writes an id once, so sending it again is harmless.
- Unacked messages go again after 3, 6, 12 .. 60 s; on a new connection all of them go at once, in order.
- A new process sends results before log lines: the server waits only moments for what an earlier process owes.
- At most `WINDOW` messages are under way: a server that is slow is not helped by more of them.
- Bounded: a full outbox makes tasks wait, and refuses log lines where that does not help. Results are always taken.
- Nothing older than 24 h is sent: the server remembers for 25 h that a task has ended, and would take an older result for a new one.
- A disk that refuses costs what a restart would lose, and nothing else.
"""

import asyncio
import contextlib
import heapq
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct

MAX_MESSAGES = 5_000
MAX_BYTES = 32 << 20
MAX_AGE_S = 24 * 3600.0
WINDOW = 500
ROOM_WAIT_S = 10.0  # how long a task waits for room before lines are refused

_TABLE = """CREATE TABLE IF NOT EXISTS outbox
    (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, is_result INTEGER NOT NULL, made_at REAL NOT NULL, frame BLOB NOT NULL)"""
_LOAD = "SELECT id, frame, made_at FROM outbox ORDER BY is_result DESC, seq"
_ADD = "INSERT OR IGNORE INTO outbox (id, is_result, made_at, frame) VALUES (?, ?, ?, ?)"
_DROP = "DELETE FROM outbox WHERE id = ?"

logger = logging.getLogger("agent")


class Message(Struct, gc=False):
    """A message not yet acked. `attempts` counts those on this connection."""

    id: str
    frame: bytes
    made_at: float
    attempts: int = 0


class Outbox:
    """All messages not yet acked. `now_s` is a steady clock."""

    def __init__(
        self, database: sqlite3.Connection, *, first_s: float, longest_s: float, now_s: Callable[[], float]
    ) -> None:
        """A message goes again after `first_s`, then after twice as long each time, up to `longest_s`."""
        self._database = database
        self._first_s = first_s
        self._longest_s = longest_s
        self._now_s = now_s
        self._bytes = 0
        self._under_way = 0
        self._fresh: deque[str] = deque()  # to be sent for the first time on this connection
        self._again: list[
            tuple[float, str]
        ] = []  # a heap: when which goes again; the acked leave it when they fall due
        self._has_refused = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        database.execute(_TABLE)
        self._messages = {row[0]: Message(*row) for row in database.execute(_LOAD)}
        self._bytes = sum(len(message.frame) for message in self._messages.values())
        self.rewind()

    def __len__(self) -> int:
        return len(self._messages)

    # ---- written

    def add_result(self, message_id: str, frame: bytes) -> None:
        """Keeps a result; one that is kept already stays as it is."""
        if message_id not in self._messages:
            self._add(message_id, frame, is_result=True)

    async def add_log(self, message_id: str, frame: bytes) -> bool:
        """Keeps lines, when there is room or some comes in time. Returns whether they were kept."""
        if not self._has_room() and not self._has_refused:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROOM_WAIT_S):
                    await self._wait_for_room()
        self._has_refused = not self._has_room()
        if not self._has_refused:
            self._add(message_id, frame, is_result=False)
        return not self._has_refused

    def _add(self, message_id: str, frame: bytes, *, is_result: bool) -> None:
        message = self._messages[message_id] = Message(message_id, frame, time.time())
        self._bytes += len(frame)
        self._fresh.append(message_id)
        self._on_disk(_ADD, message_id, is_result, message.made_at, frame)
        self._changed.set()

    def _has_room(self) -> bool:
        return len(self._messages) < MAX_MESSAGES and self._bytes < MAX_BYTES

    async def _wait_for_room(self) -> None:
        while not self._has_room():
            self._room.clear()
            await self._room.wait()

    # ---- sent

    def rewind(self) -> None:
        """A connection begins: everything is to be sent, in order."""
        oldest = time.time() - MAX_AGE_S
        for message in [message for message in self._messages.values() if message.made_at < oldest]:
            logger.warning("a message was not acked within a day, and is given up")
            self.settle(message.id)
        for message in self._messages.values():
            message.attempts = 0
        self._fresh = deque(self._messages)
        self._again.clear()
        self._under_way = 0
        self._changed.set()

    def next(self) -> bytes | None:
        """The frame that is to be sent now, if there is one."""
        while self._again and self._again[0][0] <= self._now_s():
            _, message_id = heapq.heappop(self._again)
            if message_id in self._messages:
                return self._sent(self._messages[message_id])
        while self._fresh and self._under_way < WINDOW:
            message = self._messages.get(self._fresh.popleft())
            if message is not None:
                self._under_way += 1
                return self._sent(message)
        return None

    def _sent(self, message: Message) -> bytes:
        wait_s = min(self._longest_s, self._first_s * 2.0 ** min(message.attempts, 10))
        message.attempts += 1
        heapq.heappush(self._again, (self._now_s() + wait_s, message.id))
        return message.frame

    async def wait(self) -> None:
        """Until `next` may have something."""
        self._changed.clear()
        wait_s = self._again[0][0] - self._now_s() if self._again else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._changed.wait()

    # ---- acked

    def settle(self, message_id: str) -> None:
        """The server has this message. Nothing for one that is not here."""
        message = self._messages.pop(message_id, None)
        if message is not None:
            self._bytes -= len(message.frame)
            self._under_way -= message.attempts > 0
            self._on_disk(_DROP, message_id)
            self._room.set()
            self._changed.set()

    async def emptied(self) -> None:
        """Until everything is acked."""
        while self._messages:
            await self.wait()

    def _on_disk(self, statement: str, *values: object) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.Error as error:
            logger.warning("the outbox on disk: %s; a restart will not remember this message", error)
