"""One HTTP connection that is kept, for one call at a time. Reads no more of an answer than its status and its end."""

import asyncio
import re
from collections.abc import Callable
from typing import cast

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

OnAnswer = Callable[["HttpLink", int, bytes], None]


def request(method: str, path: str, body: bytes, headers: str = "") -> bytes:
    """A request. `headers`: further lines, each with its end."""
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


class HttpLink(asyncio.Protocol):
    """`on_answer` is called with the status and the body; with status 0 when the connection was lost over a call."""

    def __init__(self, on_answer: OnAnswer) -> None:
        self._on_answer = on_answer
        self._data = b""
        self._is_asked = False
        self.is_open = False
        self.due_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def ask(self, message: bytes, due_ns: int = 0) -> None:
        """Sends a request that was due then."""
        self.due_ns = due_ns
        self._is_asked = True
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        head, end, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if length is None or len(body) < int(length[1]):
            self._data = data
            return
        self._data = b""
        self._is_asked = False
        self._on_answer(self, int(data[9:12]), body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._is_asked:
            self._is_asked = False
            self._on_answer(self, 0, b"")


class Asker:
    """One call after the other, awaited, over a connection that is opened when wanted."""

    def __init__(self, host: str, port: int, source: str) -> None:
        self._address = host, port
        self._source = source
        self._link: HttpLink | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """Status and body. Raises: OSError."""
        loop = asyncio.get_running_loop()
        if self._link is None or not self._link.is_open:
            _, self._link = await loop.create_connection(
                lambda: HttpLink(self._on_answer), *self._address, local_addr=(self._source, 0)
            )
        self._answer = loop.create_future()
        self._link.ask(message)
        return await self._answer

    def _on_answer(self, _: HttpLink, status: int, body: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))

    def close(self) -> None:
        """Hangs up."""
        if self._link is not None:
            self._link.transport.abort()
