"""A Redis that answers what an old one would: INFO says its version, everything else is +OK. Enough for a server that only looks."""

import asyncio
from types import TracebackType
from typing import Self


class FakeRedis:
    """Listens on a free port while it is entered."""

    def __init__(self, version: str) -> None:
        self._info = f"# Server\r\nredis_version:{version}\r\n".encode()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while words := await _command(reader):
                is_info = words[0].upper() == b"INFO"
                writer.write(b"$%d\r\n%b\r\n" % (len(self._info), self._info) if is_info else b"+OK\r\n")
        finally:
            writer.close()


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    """The words of a command; none at the end of the stream."""
    head = await reader.readline()
    if not head:
        return []
    words = []
    for _ in range(int(head[1:])):
        size = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words
