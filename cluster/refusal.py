"""The last answer on a connection: why nothing more is taken here, said so that it arrives.

Owns the JSON of such answers and the manner of hanging up. Knows neither uvicorn nor what was asked.
Rule: closing a socket while input lies unread sends RST, which can destroy the answer on its way (RFC 1122, 4.2.2.13). So FIN goes
out first, and what still comes in is read and dropped for a moment.

| code in the body | means (protocol.md, section 2) |
| --- | --- |
| 1002 | bad parameter: the request is not one that we take |
| 1003 | not found |
| 1004 | timeout: the request did not arrive |
| 2000 | network: nobody is there to take it |
"""

import asyncio
import contextlib
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

BAD_PARAMETER = 1002
NOT_FOUND = 1003
TIMEOUT = 1004
NETWORK = 2000


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer after which the connection ends."""

    status: int
    code: int
    error: str
    retry_after_s: int | None = None

    def encode(self) -> bytes:
        """The whole HTTP/1.1 response."""
        body = msgspec.json.encode({"code": self.code, "error": self.error})
        retry_after = "" if self.retry_after_s is None else f"retry-after: {self.retry_after_s}\r\n"
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{retry_after}connection: close\r\n\r\n"
        )
        return head.encode("ascii") + body


class Farewell(asyncio.Protocol):
    """Takes a connection over from its protocol in order to end it: writes, sends FIN, drops what comes, closes.

    It closes `linger_s` after the answer, or as soon as the peer does. An earlier answer that the peer has still not read by then
    gets `stall_s` more.
    """

    __slots__ = ("_connections", "_stall_s", "_timer", "_transport")

    def __init__(
        self, transport: asyncio.Transport, connections: set[object], linger_s: float = 0.5, stall_s: float = 5.0
    ) -> None:
        self._transport = transport
        self._connections = connections
        self._stall_s = stall_s
        self._timer = asyncio.get_running_loop().call_later(linger_s, self._close)
        connections.add(self)

    def say(self, answer: bytes) -> None:
        """Writes the last bytes of this connection."""
        self._transport.set_protocol(self)
        with contextlib.suppress(OSError):  # reset by the peer in the meantime: connection_lost follows
            self._transport.write(answer)
            self._finish()

    def _finish(self) -> None:
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:  # TLS has no half-closed connection
            self._transport.close()

    def _close(self) -> None:
        self._transport.close()
        self._timer = asyncio.get_running_loop().call_later(self._stall_s, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connections.discard(self)

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops; nothing to add, the end is already near."""


def hang_up(transport: asyncio.Transport, refusal: Refusal, connections: set[object]) -> None:
    """Ends a connection with this answer. `connections` is the server's list, on which the connection stays until it is closed."""
    if not transport.is_closing():
        Farewell(transport, connections).say(refusal.encode())
