"""Bytes on the public port that no client library would send, and what comes back for them.

Owns one socket a `Raw`; knows HTTP just well enough to cut an answer off the stream. Every wait has a deadline.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.support.http_client import Response
from tests.support.websocket_client import masked_frame

WAIT_S = 10.0
FIN, DEFLATED = 0x80, 0x40
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Raw:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        """Write; whether the peer takes it is not waited for."""
        if not self.writer.is_closing():
            self.writer.write(data)

    async def answer(self, timeout_s: float = WAIT_S) -> Response:
        """The next HTTP answer. Raises: TimeoutError, EOFError when there is none."""
        async with asyncio.timeout(timeout_s):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            fields = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in fields}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
            return Response(int(first.split(" ", 2)[1]), headers, body)

    async def frame(self, timeout_s: float = WAIT_S) -> tuple[int, bytes]:
        """The next frame of the server: first byte and payload. Raises: TimeoutError, EOFError when there is none."""
        async with asyncio.timeout(timeout_s):
            first, size = await self.reader.readexactly(2)
            assert not size & 0x80, "a server does not mask"
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            return first, await self.reader.readexactly(size)

    async def text(self, timeout_s: float = WAIT_S) -> Any:
        """The next text message, decoded; pings are passed over."""
        first, payload = await self.frame(timeout_s)
        while first & 0x0F == PING:
            first, payload = await self.frame(timeout_s)
        assert first == FIN | TEXT, (first, payload)
        return msgspec.json.decode(payload)

    async def close_code(self, timeout_s: float = WAIT_S) -> int:
        """The code of the server's close frame, whatever comes before it; 1006 when the connection ends without one."""
        try:
            while True:
                first, payload = await self.frame(timeout_s)
                if first & 0x0F == CLOSE:
                    return int.from_bytes(payload[:2], "big") if payload else 1005
        except (EOFError, ConnectionError):
            return 1006

    async def ended(self, timeout_s: float = WAIT_S) -> None:
        """Wait until the server has closed, and sent nothing more. Raises: TimeoutError."""
        async with asyncio.timeout(timeout_s):
            try:
                assert await self.reader.read() == b""
            except ConnectionError:
                return


@asynccontextmanager
async def opened(port: int, source_ip: str = "127.0.0.1") -> AsyncIterator[Raw]:
    """A connection to the public port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source_ip, 0), limit=1 << 26)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


async def answer_to(port: int, request: bytes) -> Response:
    """Send these bytes: the answer, whatever becomes of the connection."""
    async with opened(port) as raw:
        raw.send(request)
        return await raw.answer()


async def asked(port: int, request: bytes, timeout_s: float = WAIT_S) -> tuple[Response, bool]:
    """Send these bytes: the answer, and whether the server closed the connection within a second of it."""
    async with opened(port) as raw:
        raw.send(request)
        response = await raw.answer(timeout_s)
        try:
            await raw.ended(1.0)
        except TimeoutError:
            return response, False
        return response, True


def request(method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """An HTTP request, with headers replaced or added."""
    given = {"Host": "gateway.test", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def handshake(
    path: str,
    *,
    protocol: str | None = None,
    leave_out: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    first_line: str = "",
) -> bytes:
    """A WebSocket handshake, with headers replaced, added or left out."""
    given = {
        "Host": "gateway.test:1234",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **({"Sec-WebSocket-Protocol": protocol} if protocol is not None else {}),
        **(headers or {}),
    }
    lines = [f"{name}: {value}" for name, value in given.items() if name not in leave_out]
    return "\r\n".join([first_line or f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def text_frame(payload: bytes) -> bytes:
    """A whole text message of a client."""
    return masked_frame(FIN | TEXT, payload)


@asynccontextmanager
async def upgraded(
    port: int, path: str, token: str, source_ip: str = "127.0.0.1", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Raw]:
    """An open WebSocket on a raw connection."""
    async with opened(port, source_ip) as raw:
        raw.send(handshake(path, protocol=f"agent-token, {token}", headers=headers))
        answer = await raw.answer()
        assert answer.status == 101, answer
        yield raw
