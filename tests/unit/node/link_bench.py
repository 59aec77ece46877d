"""A link on a table: its transport, its loop and its session are puppets, and time stands still until a test moves it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from node.limits import Limits
from node.socket import Link
from node.wheel import Wheel
from tests.unit.node.frame_text import Frame, read_frames, text

KIB = 1024
SHORT = Limits(max_message_bytes=1 << 20, high_water_bytes=64 * KIB, pass_messages=8, ping_s=4, close_s=2, stall_s=3)


class FakeTimer:
    """What `call_at` gives back."""

    def __init__(self, when_s: float, call: Callable[[], object]) -> None:
        self.when_s = when_s
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """Of an event loop only a clock and two queues."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._soon: deque[Callable[[], object]] = deque()
        self._timers: list[FakeTimer] = []

    def new_wheel(self, second_s: float = 1.0) -> Wheel:
        wheel = Wheel(second_s)
        wheel.start(cast("asyncio.AbstractEventLoop", self))
        return wheel

    def time(self) -> float:
        return self.now_s

    def call_soon(self, call: Callable[..., object], *args: object) -> None:
        self._soon.append(lambda: call(*args))

    def call_at(self, when_s: float, call: Callable[[], object]) -> FakeTimer:
        timer = FakeTimer(when_s, call)
        self._timers.append(timer)
        return timer

    def turn(self) -> None:
        """One turn: what was asked for until now."""
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def settle(self) -> None:
        while self._soon:
            self.turn()

    def pass_time(self, seconds: float, step_s: float = 0.5) -> None:
        for _ in range(round(seconds / step_s)):
            self.jump(step_s)

    def jump(self, seconds: float) -> None:
        """Time that goes by without the loop running, as for a stopped process."""
        self.now_s += seconds
        due = [timer for timer in self._timers if timer.when_s <= self.now_s]
        self._timers = [timer for timer in self._timers if timer.when_s > self.now_s]
        for timer in due:
            if not timer.is_cancelled:
                timer.call()
        self.settle()


class FakeTransport(asyncio.Transport):
    """Takes what is written; while `peer_reads` is False it piles up in the buffer. Calls its protocol as uvloop's would."""

    def __init__(self, loop: FakeLoop, *, has_eof: bool = True) -> None:
        super().__init__()
        self.protocol: asyncio.Protocol | None = None
        self.peer_reads = True
        self.is_paused = False
        self.eof_written = self.is_closed = self.is_aborted = False
        self.writes: list[bytes] = []
        self._loop = loop
        self._has_eof = has_eof
        self._waiting_bytes = 0
        self._is_crowded = False
        self._limits = (1 << 16, 1 << 14)

    def write(self, data: Any) -> None:
        assert not self.eof_written, "written after the end"
        assert not self.is_closing(), "written after closing"
        self.writes.append(bytes(data))
        if not self.peer_reads:
            self._waiting_bytes += len(data)
        self._tell()

    def take(self, size: int) -> None:
        """The peer reads so many bytes."""
        self._waiting_bytes = max(0, self._waiting_bytes - size)
        self._tell()

    def _tell(self) -> None:
        assert self.protocol is not None
        high, low = self._limits
        if not self._is_crowded and self._waiting_bytes > high:
            self._is_crowded = True
            self.protocol.pause_writing()
        elif self._is_crowded and self._waiting_bytes <= low:
            self._is_crowded = False
            self.protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is not None
        self._limits = (high, low)

    def get_write_buffer_size(self) -> int:
        return self._waiting_bytes

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def can_write_eof(self) -> bool:
        return self._has_eof

    def write_eof(self) -> None:
        assert self._has_eof, "TLS has no end of one direction"
        self.eof_written = True

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        if not self.is_aborted:
            self.is_aborted = True
            self._loop.call_soon(self.lose)

    def lose(self) -> None:
        """The connection is gone."""
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            self.is_closed = True
            protocol.connection_lost(None)


class Recorder:
    """A session that notes what it is told, and does what a test wants done with a message."""

    def __init__(self, react: Callable[["Recorder", bytes], object] | None = None) -> None:
        self.link: Link | None = None
        self.messages: list[bytes] = []
        self.calls: list[str] = []
        self._react = react

    def attached(self, link: Link) -> None:
        self.calls.append("attached")
        self.link = link

    def on_message(self, payload: bytes) -> None:
        assert type(payload) is bytes
        self.messages.append(payload)
        if self._react is not None:
            self._react(self, payload)

    def on_writable(self) -> None:
        self.calls.append("writable")

    def on_lost(self) -> None:
        self.calls.append("lost")


class Bench:
    """One link and its puppets. Several may share a wheel."""

    def __init__(
        self,
        limits: Limits | None = None,
        session: Recorder | None = None,
        *,
        is_deflated: bool = False,
        has_eof: bool = True,
        beside: "Bench | None" = None,
    ) -> None:
        self.loop: FakeLoop = beside.loop if beside else FakeLoop()
        self.wheel: Wheel = beside.wheel if beside else self.loop.new_wheel()
        self.session = session or Recorder()
        self.peers: set[Any] = set()
        self.transport = FakeTransport(self.loop, has_eof=has_eof)
        limits = limits or Limits()
        self.link = Link(self.transport, self.session, limits, self.wheel, self.peers, is_deflated=is_deflated)
        self.transport.protocol = self.link

    def begin(self, early: bytes = b"") -> "Bench":
        self.link.begin(early)
        return self

    def hear(self, *frames: bytes) -> None:
        """One read, and the loop until it rests."""
        self.link.data_received(b"".join(frames))
        self.loop.settle()

    def said(self) -> list[Frame]:
        """What left since the last time."""
        written, self.transport.writes = b"".join(self.transport.writes), []
        return list(read_frames(written))

    def said_codes(self) -> list[int | None]:
        return [frame.code for frame in self.said() if frame.opcode == 8]


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def echoing(session: Recorder, payload: bytes) -> None:
    assert session.link is not None
    session.link.send(payload)


def flooding(session: Recorder, payload: bytes) -> None:
    for _ in range(2000):
        echoing(session, payload)


def on(message: bytes, act: Callable[[Link], object]) -> Callable[[Recorder, bytes], object]:
    """A session that does this on one message."""

    def react(session: Recorder, payload: bytes) -> None:
        assert session.link is not None
        if payload == message:
            act(session.link)

    return react


def large(size: int = 600 * KIB) -> bytes:
    return text(b"a" * size)
