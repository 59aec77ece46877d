"""A small HTTP/1.1 client for agents and control planes in tests: one call, one answer, every failure one error.

Knows neither agents nor tasks. Nothing is sent twice behind the caller's back: a connection that turns out closed is a `NoAnswer`, since
a test must know of each attempt. Without `keep_alive` each call has a connection of its own, as Django's has.
"""

import asyncio
import urllib.parse
from collections.abc import Mapping

import msgspec

from tests.support.certificate import trust_for


class NoAnswer(ConnectionError):
    """Nothing that can be read came back: refused, reset, too late, or no HTTP. The call may have had its effect."""


class Response(msgspec.Struct, frozen=True):
    """An answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        """The body, decoded. Raises: msgspec.DecodeError."""
        return msgspec.json.decode(self.body)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpClient:
    """Calls to one server."""

    def __init__(self, base_url: str, *, keep_alive: bool = False, source_ip: str | None = None) -> None:
        parts = urllib.parse.urlsplit(base_url)
        self._tls = trust_for(parts.scheme)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or (443 if self._tls else 80)
        self._keep_alive = keep_alive
        self._source_ip = source_ip
        self._idle: list[Streams] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Response:
        """One attempt. Raises: NoAnswer."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(self._head(method, path, body, headers or {}) + body)
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {timeout_s:g} s") from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise NoAnswer(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Close the connections kept alive."""
        idle, self._idle = self._idle, []
        for _, writer in idle:
            await _closed(writer)

    def _head(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [] if self._keep_alive else ["Connection: close"]
        lines += [f"Content-Length: {len(body)}"] if body or method != "GET" else []
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    async def _exchange(self, request: bytes) -> Response:
        reader, writer = streams = await self._connected()
        is_reusable = False
        try:
            writer.write(request)
            response = await _read_response(reader)
            is_reusable = self._keep_alive and response.headers.get("connection", "").lower() != "close"
        finally:
            if is_reusable:
                self._idle.append(streams)
            else:
                writer.transport.abort()
        return response

    async def _connected(self) -> Streams:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        local = (self._source_ip, 0) if self._source_ip else None
        return await asyncio.open_connection(self._host, self._port, ssl=self._tls, local_addr=local)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    try:
        await writer.wait_closed()
    except OSError:
        return


async def _read_response(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    status = int(first.split(" ", 2)[1])
    return Response(status, headers, await _read_body(reader, headers))


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunks(reader)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(body)
