"""The agents' side of a WebSocket, byte by byte, against a server that only does what a test says."""

import asyncio
import base64
import hashlib
import struct
import zlib
from collections.abc import AsyncIterator

import pytest

from tests.support.eventually import eventually
from tests.support.websocket_client import Connection, HandshakeRefusedError, dial

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
GOOD = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"


class Ear:
    """Writes down what it is told. `deaf_after`: stops reading at this many messages."""

    def __init__(self, deaf_after: int = 0) -> None:
        self.told: list[object] = []
        self.deaf_after = deaf_after

    def on_open(self, connection: Connection) -> None:
        self.told.append("open")

    def on_message(self, connection: Connection, payload: bytes) -> None:
        self.told.append(payload)
        if len(self.told) - 1 == self.deaf_after:
            connection.stop_reading()

    def on_closed(self, connection: Connection, code: int) -> None:
        self.told.append(code)

    def on_stalled(self, connection: Connection) -> None:
        self.told.append("stalled")

    def on_flowing(self, connection: Connection) -> None:
        self.told.append("flowing")


class RawServer:
    """Answers a handshake with `answer` and what follows it; then the test has the streams."""

    def __init__(self) -> None:
        self.answer = GOOD
        self.first_frames = b""
        self.request = ""
        self.streams: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.request = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line for line in self.request.split("\r\n") if line.startswith("Sec-WebSocket-Key")).split(": ")[1]
        accept = base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()  # noqa: S324  RFC 6455
        writer.write((self.answer.format(accept=accept) + "\r\n").encode() + self.first_frames)
        self.streams.put_nowait((reader, writer))


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    raw = RawServer()
    listening = await asyncio.start_server(raw.on_connection, "127.0.0.1", 0)
    raw.url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/ws?q=1"
    async with listening:
        yield raw
        for writer in raw.writers:
            writer.transport.abort()
    await asyncio.sleep(0)


async def connected(server: RawServer, ear: Ear, *, offers_deflate: bool = False) -> Connection:
    return await dial(server.url, ear, headers={"X-Test": "1"}, timeout_s=5.0, offers_deflate=offers_deflate)


def frame(payload: bytes, first: int = 0x81) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    return (struct.pack("!BBH", first, 126, size) if size < 65536 else struct.pack("!BBQ", first, 127, size)) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    assert size & 0x80, "a client's frames are masked"
    size &= 0x7F
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    return first, bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


async def test_it_asks_for_what_it_was_told(server: RawServer) -> None:
    connection = await connected(server, Ear())
    first, *lines = server.request.split("\r\n")
    assert first == "GET /ws?q=1 HTTP/1.1"
    assert {"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "X-Test: 1"} <= set(lines)
    connection.reset()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("HTTP/1.1 401 No\r\n", 401),
        ("HTTP/1.1 200 OK\r\n", 200),
        ("nonsense\r\n", 0),
        ("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n", 0),
        ("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n", 0),
        (GOOD + "Sec-WebSocket-Extensions: permessage-deflate\r\n", 0),
        (GOOD + "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n", 0),
    ],
)
async def test_it_takes_no_other_answer_than_go_does(server: RawServer, answer: str, status: int) -> None:
    server.answer = answer
    ear = Ear()
    with pytest.raises(HandshakeRefusedError) as refused:
        await connected(server, ear, offers_deflate=True)
    assert refused.value.status == status
    assert not ear.told


async def test_a_refused_connection_is_no_answer() -> None:
    with pytest.raises(HandshakeRefusedError) as refused:
        await dial("ws://127.0.0.1:1/", Ear(), headers={}, timeout_s=1.0)
    assert refused.value.status == 0


async def test_frames_right_behind_the_handshake_are_read(server: RawServer) -> None:
    server.first_frames = frame(b"one") + frame(b"two")
    ear = Ear()
    connection = await connected(server, ear)
    await eventually(lambda: ear.told != ["open", b"one", b"two"])
    connection.reset()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1_000_000])
async def test_frames_of_every_size_arrive_in_both_directions(server: RawServer, size: int) -> None:
    ear = Ear()
    connection = await connected(server, ear)
    reader, writer = await server.streams.get()
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    writer.write(frame(payload))
    await eventually(lambda: payload not in ear.told)
    connection.send(payload)
    assert await read_frame(reader) == (0x81, payload)
    connection.reset()


async def test_a_message_in_parts_is_one_message_and_a_ping_may_come_between(server: RawServer) -> None:
    ear = Ear()
    connection = await connected(server, ear)
    reader, writer = await server.streams.get()
    for part in (frame(b"on", 0x01), frame(b"ping", 0x89), frame(b"e", 0x80)):
        for byte in part:
            writer.write(bytes((byte,)))
            await writer.drain()
    assert await read_frame(reader) == (0x8A, b"ping")
    await eventually(lambda: ear.told != ["open", b"one"])
    connection.reset()


async def test_deflate_in_both_directions(server: RawServer) -> None:
    server.answer = GOOD + f"Sec-WebSocket-Extensions: {BOTH}\r\n"
    ear = Ear()
    connection = await connected(server, ear, offers_deflate=True)
    reader, writer = await server.streams.get()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    writer.write(frame((packer.compress(b"hello" * 50) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4], 0xC1))
    await eventually(lambda: ear.told != ["open", b"hello" * 50])
    connection.send(b"world" * 50)
    first, packed = await read_frame(reader)
    assert (first, zlib.decompressobj(-15).decompress(packed + b"\0\0\xff\xff")) == (0xC1, b"world" * 50)
    connection.reset()


async def test_it_answers_a_close_and_is_told_its_code(server: RawServer) -> None:
    ear = Ear()
    await connected(server, ear)
    reader, writer = await server.streams.get()
    writer.write(frame(struct.pack("!H", 4409) + b"replaced", 0x88) + frame(b"too late"))
    assert await read_frame(reader) == (0x88, struct.pack("!H", 4409))
    assert ear.told == ["open", 4409]
    writer.close()
    assert await reader.read() == b""


async def test_a_socket_that_ends_without_a_close_is_1006(server: RawServer) -> None:
    ear = Ear()
    await connected(server, ear)
    _, writer = await server.streams.get()
    writer.close()
    await eventually(lambda: ear.told != ["open", 1006])


async def test_a_reset_is_a_reset_for_the_peer(server: RawServer) -> None:
    ear = Ear()
    connection = await connected(server, ear)
    reader, _ = await server.streams.get()
    connection.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_who_stops_reading_is_told_nothing_more_of_what_came_already(server: RawServer) -> None:
    ear = Ear(deaf_after=1)
    connection = await connected(server, ear)
    _, writer = await server.streams.get()
    writer.write(frame(b"one") + frame(b"two"))
    await eventually(lambda: b"one" not in ear.told)
    writer.write(frame(b"three"))
    await asyncio.sleep(0.05)
    assert ear.told == ["open", b"one"]
    connection.start_reading()
    await eventually(lambda: ear.told != ["open", b"one", b"two", b"three"])
    connection.reset()


async def test_an_abandoned_connection_stays_open_and_is_told_nothing(server: RawServer) -> None:
    ear = Ear()
    connection = await connected(server, ear)
    _, writer = await server.streams.get()
    connection.abandon()
    writer.write(frame(b"one"))
    await asyncio.sleep(0.05)
    assert not connection.is_closed_by_peer()
    writer.close()
    await eventually(lambda: not connection.is_closed_by_peer())
    assert ear.told == ["open"]
    connection.reset()
    await connection.gone(within_s=1.0)


async def test_it_says_when_the_peer_takes_nothing_and_when_it_does_again(server: RawServer) -> None:
    ear = Ear()
    connection = await connected(server, ear)
    reader, _ = await server.streams.get()
    while "stalled" not in ear.told:
        connection.send(b"x" * 1_000_000)
        await asyncio.sleep(0)
    while "flowing" not in ear.told:
        await reader.read(1_000_000)
    assert ear.told == ["open", "stalled", "flowing"]
    connection.reset()
