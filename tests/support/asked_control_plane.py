"""A control plane that is asked: a small HTTP server that writes down each call and answers as the test says.

Knows neither agents nor tasks. `answer` is called with each call; what it returns goes out as written, None is never answered.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable
from typing import Self

import msgspec


class Call(msgspec.Struct, frozen=True):
    """What was asked; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        """The body, decoded."""
        said: dict[str, object] = json.loads(self.body)
        return said


Answering = Callable[[Call], bytes | None]


def http(status: int, body: object = b"", *, head: str = "") -> bytes:
    """An answer; a body that is not bytes is written as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} Said\r\nContent-Length: {len(raw)}\r\n{head}\r\n".encode() + raw


REFUSED = http(403, {"refused": True})
ACCEPTED = http(200, {"id": "whoever"})
NONE = http(204)


class AskedControlPlane:
    """Use as a context manager. `calls` are those that came whole; `at_once` the most that were open at one time."""

    def __init__(self, answer: bytes | Answering | None = NONE, *, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.calls: list[Call] = []
        self.at_once = 0
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """As `control_plane.url`; the port stays the same when it comes back."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        """What was asked, in order."""
        return [call.path for call in self.calls]

    async def start(self) -> None:
        """Listen, where it did before."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections from now on, and drop the open ones. Twice is fine."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.at_once = max(self.at_once, len(self._open))
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self._converse(reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        call = Call(method, path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))
        self.calls.append(call)
        answer = self.answer(call) if callable(self.answer) else self.answer
        if answer is None:
            await reader.read()  # until the caller has given up
        else:
            writer.write(answer)
            await writer.drain()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
