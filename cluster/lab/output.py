"""A task's output on its way to the server: bytes from pipes, cut into lines, joined into messages while they come.

Owns cutting, joining and the limit; knows neither processes nor sockets. Rules:

- A line longer than 64 KiB becomes several; bytes that are no UTF-8 become U+FFFD; the line end is not part of the line.
- Lines that come within 50 ms share a message, at most 20 of them and about 64 KiB.
- A task that writes faster than messages are kept waits: its pipe fills.
- Beyond `LIMIT_BYTES` nothing more is sent. What was not sent is counted, and said in a last line.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import IO, NamedTuple

MAX_LINE_BYTES = 64 << 10
JOIN_LINES = 20
JOIN_S = 0.05
LIMIT_BYTES = 5 << 20
SILENCE_S = 1.0  # after which a pipe is left that outlives its process: a daemon inherited it
LINGER_S = 30.0  # after which it is left though the daemon writes on
_QUEUED_LINES = 100


class OutputLine(NamedTuple):
    """A line, and when it came, in seconds."""

    stream: str
    content: str
    at_s: int


Keep = Callable[[list[OutputLine]], Awaitable[bool]]  # whether they were kept


class LineCutter:
    """Cuts bytes into lines, each short enough."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [piece for line in whole for piece in _pieces(line.removesuffix(b"\r"))]
        *full, self._rest = _pieces(self._rest)
        return lines + full

    def end(self) -> list[bytes]:
        """What stands behind the last line end."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    pieces = []
    while len(line) > MAX_LINE_BYTES:
        cut = _cut(line)
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


def _cut(line: bytes) -> int:
    """The last place at which a piece may end without tearing a character of UTF-8 apart."""
    for cut in range(MAX_LINE_BYTES, MAX_LINE_BYTES - 4, -1):
        if line[cut] & 0b1100_0000 != 0b1000_0000:
            return cut
    return MAX_LINE_BYTES


class Output:
    """What one task writes."""

    def __init__(self, keep: Keep) -> None:
        self.size_bytes = 0
        self._keep = keep
        self._taken_bytes = 0
        self._lost_lines = 0
        self._has_exited = False
        self._lines: asyncio.Queue[OutputLine | None] = asyncio.Queue(_QUEUED_LINES)
        self._readers: list[asyncio.Task[None]] = []
        self._shipping = asyncio.create_task(self._ship(), name="ship output")

    # ---- in

    def follow(self, pipe: IO[bytes], stream: str) -> None:
        """Reads a pipe to its end."""
        self._readers.append(asyncio.create_task(self._read(pipe, stream), name=f"read {stream}"))

    async def write(self, stream: str, text: str) -> None:
        """A line of our own."""
        await self._put(stream, [text.encode()])

    async def _read(self, pipe: IO[bytes], stream: str) -> None:
        reader = asyncio.StreamReader(MAX_LINE_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        cutter = LineCutter()
        try:
            while data := await self._next(reader):
                self.size_bytes += len(data)
                await self._put(stream, cutter.feed(data))
            await self._put(stream, cutter.end())
        finally:
            transport.close()

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        """Some more bytes; none at the end of the pipe, and none where the process is gone and the pipe silent."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_S):
                    return await reader.read(MAX_LINE_BYTES)
            if self._has_exited:
                return b""

    async def _put(self, stream: str, lines: list[bytes]) -> None:
        now_s = int(time.time())
        for line in lines:
            if self._taken_bytes + len(line) > LIMIT_BYTES:
                self._lost_lines += 1
                continue
            self._taken_bytes += len(line)
            await self._lines.put(OutputLine(stream, line.decode(errors="replace"), now_s))

    # ---- out

    async def _ship(self) -> None:
        is_last = False
        while not is_last and (line := await self._lines.get()) is not None:
            lines = [line]
            is_last = await self._join(lines)
            if not await self._keep(lines):
                self._lost_lines += len(lines)

    async def _join(self, lines: list[OutputLine]) -> bool:
        """Adds what comes soon. Returns whether that was all."""
        size = len(lines[0].content)
        try:
            async with asyncio.timeout(JOIN_S):
                while len(lines) < JOIN_LINES and size < MAX_LINE_BYTES:
                    line = await self._lines.get()
                    if line is None:
                        return True
                    lines.append(line)
                    size += len(line.content)
        except TimeoutError:
            pass
        return False

    # ---- the end

    async def finish(self) -> None:
        """The process is gone: hands on what is left in its pipes, and says what was not sent."""
        self._has_exited = True
        if self._readers:
            await asyncio.wait(self._readers, timeout=LINGER_S)
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        await self._lines.put(None)
        await self._shipping
        if self._lost_lines:
            text = f"[{self._lost_lines} lines of this output were not sent: too much of it, or the outbox was full]"
            await self._keep([OutputLine("stderr", text, int(time.time()))])
