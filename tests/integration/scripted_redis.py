"""A TCP server that speaks RESP and answers what a test says: for what no real Redis here can be made to say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[list[bytes]], bytes | None]
OK = b"+OK\r\n"


@dataclass
class ScriptedRedis:
    """`commands` are those that came, connections' own greetings left out."""

    port: int
    commands: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        """For the configuration."""
        return f"redis://127.0.0.1:{self.port}/0"


@asynccontextmanager
async def scripted_redis(answer: Answer) -> AsyncIterator[ScriptedRedis]:
    """Answers every command with what `answer` makes of its words; None: not at all, and hangs up."""
    scripted = ScriptedRedis(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while words := await _command(reader):
                is_greeting = words[0].upper() in (b"CLIENT", b"HELLO", b"SELECT", b"AUTH")
                reply = OK if is_greeting else answer(words)
                if not is_greeting:
                    scripted.commands.append(words[0].upper())
                if reply is None:
                    break
                writer.write(reply)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    head = await reader.readline()
    if not head:
        return []
    words = []
    for _ in range(int(head[1:])):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


def bulk(text: str) -> bytes:
    """A bulk string."""
    raw = text.encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def info(version: str, policy: str = "noeviction") -> Answer:
    """A Redis that says this of itself."""
    return lambda words: (
        bulk(f"redis_version:{version}\r\nmaxmemory_policy:{policy}\r\n") if words[0] == b"INFO" else OK
    )
