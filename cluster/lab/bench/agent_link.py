"""One simulated agent's connection: a handshake, then frames counted rather than read. Light enough that the client is not what is measured.

Knows what a frame is, and no more of what it says than its type; what follows from it is its listener's. Answers pings.
"""

import asyncio
from collections import deque
from typing import Protocol, cast

_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89
_ACK = b'{"type":"ack"'
_TASK = b'{"type":"task'
_PONG = b"\x8a\x80\0\0\0\0"
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Listener(Protocol):
    """Whoever owns the agents of a process."""

    def on_acks(self, link: "AgentLink", count: int) -> None:
        """So many of its messages were acknowledged."""

    def on_task(self, link: "AgentLink", payload: bytes) -> None:
        """A task, or a batch of tasks."""

    def on_lost(self, link: "AgentLink") -> None:
        """The connection is gone."""


def upgrade(host: str, agent_id: str, token: str) -> bytes:
    """The request of a handshake."""
    lines = (
        f"GET /ws/agent/{agent_id} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {_KEY}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: agent-token, {token}",
    )
    return "\r\n".join((*lines, "", "")).encode()


class AgentLink(asyncio.Protocol):
    """One connection of agent `number`."""

    __slots__ = ("_listener", "_tail", "due", "is_open", "number", "opened", "outstanding", "transport")

    def __init__(self, number: int, listener: Listener, request: bytes) -> None:
        self.number = number
        self.opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.is_open = False
        self.outstanding = 0
        self.due: deque[int] = deque()  # when what is not acknowledged yet was due, in ns
        self._listener = listener
        self._tail = request  # at first what is to be sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._tail)
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if not self.is_open:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._tail = head
                return
            self._open(int(head[9:12]))
        if data and self.is_open:
            self._read(data)

    def _open(self, status: int) -> None:
        self.is_open = status == 101
        if not self.opened.done():
            self.opened.set_result(status)
        if not self.is_open:
            self.transport.close()

    def _read(self, data: bytes) -> None:
        pos, end, acks = 0, len(data), 0
        while end - pos >= 2:
            size, body = data[pos + 1], pos + 2
            if size >= 126:
                body += 2 if size == 126 else 8
                size = int.from_bytes(data[pos + 2 : body], "big")
            stop = body + size
            if stop > end or body > end:
                break
            if data.startswith(_ACK, body):
                acks += 1
            else:
                self._on_other(data[pos], data[body:stop])
            pos = stop
        if pos < end:
            self._tail = data[pos:]
        if acks:
            self._listener.on_acks(self, acks)

    def _on_other(self, first: int, payload: bytes) -> None:
        if first == _TEXT and payload.startswith(_TASK):
            self._listener.on_task(self, payload)
        elif first == _PING:
            self.transport.write(_PONG)
        elif first == _CLOSE:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if not self.opened.done():
            self.opened.set_result(0)
        self._listener.on_lost(self)
