"""One whole request, and the one answer to it, for who answers without an application.

Owns the writing of such an answer: what uvicorn's `send` would write, in one piece; knows whether anybody waits for it, and no route. Who answers late does no harm: what is
said to a connection that has gone is dropped.
"""

from collections.abc import Iterable
from typing import Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_JSON = (b"content-type", b"application/json")
_encode = msgspec.json.encode


class Exchange:
    """A request whose turn it is, its body whole."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def scope(self) -> dict[str, Any]:
        """As ASGI has it: `type`, `method`, `path`, `headers`, `client`, `scheme`, at the least."""
        return cast("dict[str, Any]", self._cycle.scope)

    async def is_gone(self) -> bool:
        """Whether who asked has hung up."""
        return bool(self._cycle.disconnected or self._cycle.transport.is_closing())

    @property
    def body(self) -> bytes:
        """All of it."""
        return bytes(self._cycle.body)

    def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Writes the answer, of which `headers` say the length, and ends the request."""
        cycle = self._cycle
        cycle.response_started = True
        cycle.body = bytearray()  # the connection remembers its last request until the next
        if cycle.disconnected or cycle.transport.is_closing():
            return
        lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cycle.transport.write(b"".join((STATUS_LINE[status], *lines, end, body)))
        cycle.response_complete = True
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


def answer_json(exchange: Exchange, told: Any) -> None:
    """Answers 200 with this as JSON, without a response in between."""
    body = _encode(told)
    exchange.answer(200, ((b"content-length", b"%d" % len(body)), _JSON), body)


def answer_with(exchange: Exchange, reply: Any) -> None:
    """Answers with a response that an application would have sent."""
    exchange.answer(reply.status_code, reply.raw_headers, bytes(reply.body))
