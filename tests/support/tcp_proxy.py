"""A TCP proxy that does to connections what networks do: slow, cut, silent, or deaf at the worst moment.

Owns bytes and sockets, and knows no protocol. What it does is set while it runs, and holds for connections that are open and for new ones:

| set | what a connection sees |
| --- | --- |
| `delay_s` | each answer comes so much later |
| `loses` | with this chance, what the upstream answers is dropped and the connection reset: the request was done, nobody knows |
| `is_hole` | nothing passes, either way, and no end is told: what comes is kept by the kernel, and flows on when the hole is closed |
| `reset()` | every open connection is reset, on both sides |

    async with TcpProxy(redis.port) as proxy:
        proxy.delay_s = 0.2
"""

import asyncio
import random
import socket
import struct
from collections import deque
from typing import Self, cast

from tests.support.ports import free_port

_HERE = "127.0.0.1"
_RESET = struct.pack("ii", 1, 0)  # linger for 0 s


class TcpProxy:
    """One listening port before one upstream port, both of this machine."""

    def __init__(self, upstream_port: int = 0, chance: random.Random | None = None) -> None:
        self.port = free_port()
        self.delay_s = 0.0
        self.loses = 0.0
        self.lost = 0
        self.upstream_port = upstream_port  # may be known only later
        self._chance = chance or random.Random()
        self._is_hole = False
        self._pipes: set[_Pipe] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Of an HTTP server behind it."""
        return f"http://{_HERE}:{self.port}"

    @property
    def redis_url(self) -> str:
        """Of a Redis behind it."""
        return f"redis://{_HERE}:{self.port}/0"

    @property
    def is_hole(self) -> bool:
        """Whether nothing passes."""
        return self._is_hole

    @is_hole.setter
    def is_hole(self, is_hole: bool) -> None:
        self._is_hole = is_hole
        for pipe in list(self._pipes):
            pipe.set_reading()

    @property
    def connections(self) -> int:
        """How many are open, on the side of those who dialled."""
        return sum(pipe.is_downstream for pipe in self._pipes)

    def reset(self) -> int:
        """Reset every connection; how many."""
        pipes = [pipe for pipe in self._pipes if pipe.is_downstream]
        for pipe in pipes:
            pipe.reset()
        return len(pipes)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pipe(self, is_downstream=True), _HERE, self.port, backlog=1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()

    # ---- told by its pipes

    async def dial(self, downstream: "_Pipe") -> None:
        """The upstream half of a new connection."""
        upstream = _Pipe(self, is_downstream=False)
        downstream.other, upstream.other = upstream, downstream
        try:
            await asyncio.get_running_loop().create_connection(lambda: upstream, _HERE, self.upstream_port)
        except OSError:
            downstream.reset()

    def added(self, pipe: "_Pipe") -> None:
        """A half is open."""
        self._pipes.add(pipe)

    def removed(self, pipe: "_Pipe") -> None:
        """A half is gone."""
        self._pipes.discard(pipe)

    def loses_this(self) -> bool:
        """Whether the answer that has just come is lost."""
        is_lost = self.loses > 0 and self._chance.random() < self.loses
        self.lost += is_lost
        return is_lost


class _Pipe(asyncio.Protocol):
    """One half of a connection: what it reads goes to the other half."""

    def __init__(self, proxy: TcpProxy, *, is_downstream: bool) -> None:
        self.is_downstream = is_downstream
        self.other: _Pipe | None = None
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._late: deque[bytes] = deque()  # put off, in order; b"" stands for the end
        self._due_s = 0.0  # of the last of them
        self._unsent = bytearray()  # read before the upstream was there
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._proxy.added(self)
        self.set_reading()
        if self.is_downstream:
            self._dialling = asyncio.get_running_loop().create_task(self._proxy.dial(self), name="proxy dials")
        elif self.other is not None:
            self.write(self.other.take_unsent())

    def data_received(self, data: bytes) -> None:
        if not self.is_downstream and self._proxy.loses_this():
            self.reset()
        elif not self.is_downstream and (self._proxy.delay_s or self._late):
            self._put_off(data)
        elif self.other is None or self.other._transport is None:
            self._unsent += data
        else:
            self.other.write(data)

    def _put_off(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._late.append(data)
        self._due_s = max(self._due_s, loop.time() + self._proxy.delay_s)  # a shorter delay does not overtake
        loop.call_at(self._due_s, self._pass_late)

    def _pass_late(self) -> None:
        if self._late and self.other is not None:
            data = self._late.popleft()
            self.other.write(data) if data else self.other.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.removed(self)
        self._transport = None
        if self.other is None:
            return
        if self._late and exc is None:
            self._put_off(b"")
        elif exc is None:
            self.other.close()
        else:
            self.other.reset()

    def pause_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.set_reading()

    # ---- told by the proxy and the other half

    def write(self, data: bytes) -> None:
        """Pass it on."""
        if self._transport is not None and data:
            self._transport.write(data)

    def take_unsent(self) -> bytes:
        """What was read while there was nobody to pass it to."""
        unsent, self._unsent = bytes(self._unsent), bytearray()
        return unsent

    def set_reading(self) -> None:
        """Read, unless nothing may pass."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._proxy.is_hole:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        """End after what was written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """RST, on both sides."""
        for pipe in (self, self.other):
            if pipe is not None and pipe._transport is not None:
                raw = None if pipe._transport.is_closing() else pipe._transport.get_extra_info("socket")
                if raw is not None:  # uvloop has none once the peer has closed
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                pipe._transport.abort()
