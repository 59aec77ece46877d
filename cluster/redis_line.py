"""One connection to Redis that all callers of a process share: commands leave joined, replies come back in order.

Owns the connection and the line of those that wait for a reply. Knows no key and no script. redis-py makes the connection (address, TLS,
password, database) and names the errors; what a command costs beyond that is what it costs here: a pool, a lock and a timer for each are
most of the price of a short call (78 us of CPU against 180 for one, 6 against 29 where eight share a write).

Rules:

- Whoever asks is answered, or told, within `timeout_s`. When the oldest has waited that long the connection is given up: behind a Redis
  that hangs all wait alike.
- Connections that break are replaced. What was asked and not answered is sent once more over the next one, but for what is not to be sent
  twice; when there is no next one, all hear so at once.
- A caller that is cancelled leaves its place: the reply is dropped when it comes, and what it asked may be done.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis._parsers.base import BaseParser  # the one place that knows the class of an error reply
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoReply

from cluster import cancelling

Word = str | bytes | int
Command = Sequence[Word]

_NOTHING = object()  # what the parser gives while a reply is not whole


class _Ask:
    """Some commands of one caller, and their replies so far."""

    __slots__ = ("data", "deadline_s", "future", "may_repeat", "minded", "missing", "replies")

    def __init__(self, commands: Sequence[Command], future: asyncio.Future[list[Any]], deadline_s: float) -> None:
        self.data = b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]
        self.missing = len(commands)
        self.replies: list[Any] = []
        self.future = future
        self.deadline_s = deadline_s
        self.may_repeat = False
        self.minded = self.missing  # replies whose errors are raised

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class RedisLine(asyncio.Protocol):
    """Connects with the first command, and again with the first one after the connection was lost."""

    def __init__(self, pool: ConnectionPool, timeout_s: float) -> None:
        """`pool` says where Redis is and how to get in; none of its connections is used."""
        self._pool = pool
        self._timeout_s = timeout_s
        self._asked: deque[_Ask] = deque()  # sent, in the order of their replies
        self._waiting: list[_Ask] = []  # to be sent
        self._transport: asyncio.Transport | None = None
        self._stream: Any = None  # it would close the transport with its last breath
        self._connecting: asyncio.Task[None] | None = None
        self._is_flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._parser = _new_parser()

    async def ask(self, *commands: Command, may_repeat: bool = True, minded: int | None = None) -> list[Any]:
        """The replies to these commands, sent in one go; errors among them are raised, the first of them.

        `minded`: errors behind the first so many replies are none of the caller's business.
        Raises: redis.exceptions.ConnectionError, TimeoutError, ResponseError; it may have been done all the same.
        """
        if not commands:
            return []
        loop = asyncio.get_running_loop()
        asked = _Ask(commands, loop.create_future(), loop.time() + self._timeout_s)
        asked.may_repeat = may_repeat
        asked.minded = len(commands) if minded is None else minded
        self._waiting.append(asked)
        if not self._is_flushing:
            self._is_flushing = True
            loop.call_soon(self._flush)
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._look_at_the_clock)
        return await asked.future

    def drop(self) -> None:
        """Gives the connection up: the next command finds the Redis that is the primary then."""
        self._stop_connecting()
        self._give_up()

    def _give_up(self) -> None:
        if self._transport is not None:
            self._lost(BrokenConnection("the connection was given up"))

    async def close(self) -> None:
        """Ends it; who waits hears so."""
        attempt = self._connecting
        self._fail_all(BrokenConnection("the connection was closed"))
        self.drop()
        if attempt is not None:
            await cancelling.end([attempt])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- sending

    def _flush(self) -> None:
        self._is_flushing = False
        if not self._waiting:
            return
        if self._transport is None:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect(), name="connect to Redis")
            return
        waiting, self._waiting = self._waiting, []
        wanted = [asked for asked in waiting if not asked.future.done()]
        self._asked.extend(wanted)
        try:
            self._transport.write(b"".join([asked.data for asked in wanted]))
        except RuntimeError as error:  # uvloop's word for a connection that has just been closed
            self._lost(BrokenConnection(str(error)))

    # ---- the connection

    async def _connect(self) -> None:
        connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
        began_s = asyncio.get_running_loop().time()
        try:
            await connection.connect()
            if self._is_connecting_here():
                self._connecting = None
                self._take_over(connection)
        except (RedisError, OSError) as error:
            if self._is_connecting_here():
                self._connecting = None
                self._fail_older(began_s, error)
        finally:
            await connection.disconnect(nowait=True)  # unless it was taken over, and is not its own any more

    def _is_connecting_here(self) -> bool:
        """Whether this attempt was not given up: redis-py may pass over a cancellation."""
        return asyncio.current_task() is self._connecting

    def _stop_connecting(self) -> None:
        attempt, self._connecting = self._connecting, None
        if attempt is not None:
            attempt.cancel()

    def _take_over(self, connection: Any) -> None:
        """The streams that redis-py spoke the first words over are replaced by this protocol."""
        self._stream, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001 - it is left to us
        self._transport = cast("asyncio.Transport", self._stream.transport)
        self._transport.set_protocol(self)
        self._parser = _new_parser()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Replies, in the order of what was asked."""
        self._parser.feed(data)
        while (reply := self._parser.gets()) is not _NOTHING:
            asked = self._asked[0]
            asked.replies.append(reply)
            asked.missing -= 1
            if not asked.missing:
                self._asked.popleft()
                _answer(asked)

    def connection_lost(self, exc: Exception | None) -> None:
        """Redis hung up, or was hung up on."""
        if self._transport is not None:
            self._lost(exc if isinstance(exc, OSError) else BrokenConnection("Redis closed the connection"))

    def _lost(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.set_protocol(asyncio.Protocol())  # what still comes is not for the next connection
            transport.abort()
        asked, self._asked = self._asked, deque()
        again = [one for one in asked if one.may_repeat and not one.future.done()]
        for one in asked:
            if one.may_repeat:
                one.may_repeat, one.missing, one.replies = False, one.missing + len(one.replies), []
            else:
                one.fail(error)
        self._waiting[:0] = again
        self._flush()

    # ---- the clock

    def _look_at_the_clock(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = self._oldest()
        if oldest is not None and oldest.deadline_s <= loop.time():
            self._fail_all(NoReply("Redis does not answer in time"))
            self._give_up()  # but no attempt to connect, which has a clock of its own: given up here, none would ever end
            oldest = None
        self._timer = None if oldest is None else loop.call_at(oldest.deadline_s, self._look_at_the_clock)

    def _oldest(self) -> _Ask | None:
        """The first that still waits."""
        for line in (self._asked, self._waiting):
            for asked in line:
                if not asked.future.done():
                    return asked
        return None

    def _fail_older(self, began_s: float, error: Exception) -> None:
        """An attempt to connect failed for those that waited when it began; who came later gets one of its own."""
        waiting, self._waiting = self._waiting, []
        for asked in waiting:
            if asked.deadline_s - self._timeout_s > began_s:
                self._waiting.append(asked)
            else:
                asked.fail(error)
        self._flush()

    def _fail_all(self, error: Exception) -> None:
        failed = [*self._asked, *self._waiting]
        self._asked.clear()
        self._waiting.clear()
        for asked in failed:
            asked.fail(error)


def _answer(asked: _Ask) -> None:
    if asked.future.done():
        return
    for reply in asked.replies[: asked.minded]:
        if isinstance(reply, Exception):
            asked.future.set_exception(reply)
            return
    asked.future.set_result(asked.replies)


def _new_parser() -> Any:
    return hiredis.Reader(replyError=_error, notEnoughData=_NOTHING)


def _error(text: str) -> Exception:
    return cast("Exception", BaseParser.parse_error(text))  # type: ignore[no-untyped-call]
