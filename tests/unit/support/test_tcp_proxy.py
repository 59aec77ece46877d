"""The proxy passes what it is given in order, and does what networks do when it is told to."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.tcp_proxy import TcpProxy


class Echo:
    """Says everything back in capitals; `heard` is what reached it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.heard += data
                writer.write(data.upper())
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    async with await asyncio.start_server(echo.serve, "127.0.0.1", echo.port):
        yield echo


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(echo.port, random.Random(1)) as proxy:
        yield proxy


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, text: bytes) -> bytes:
        self.writer.write(text)
        async with asyncio.timeout(5):
            return await self.reader.readexactly(len(text))


async def connected(proxy: TcpProxy) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", proxy.port))


async def test_bytes_pass_in_order_both_ways(proxy: TcpProxy, echo: Echo) -> None:
    client = await connected(proxy)
    text = b"".join(b"%d " % number for number in range(200_000))
    assert await client.ask(text) == text.upper()
    assert echo.heard == text
    client.writer.close()


async def test_answers_come_later_and_in_order_also_when_the_delay_ends(proxy: TcpProxy) -> None:
    client = await connected(proxy)
    assert await client.ask(b"at once") == b"AT ONCE"
    proxy.delay_s = 0.2
    began_s = time.monotonic()
    client.writer.write(b"first ")
    await asyncio.sleep(0.05)
    proxy.delay_s = 0.0
    assert await client.ask(b"second") == b"FIRST "
    assert time.monotonic() - began_s >= 0.2
    assert await client.reader.readexactly(6) == b"SECOND"
    client.writer.close()


async def test_a_lost_reply_breaks_the_connection_after_the_request_was_done(proxy: TcpProxy, echo: Echo) -> None:
    proxy.loses = 1.0
    client = await connected(proxy)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.ask(b"done")
    assert echo.heard == b"done"
    assert proxy.lost == 1


async def test_a_hole_passes_nothing_and_says_nothing_until_it_is_closed(proxy: TcpProxy, echo: Echo) -> None:
    client = await connected(proxy)
    assert await client.ask(b"x") == b"X"
    proxy.is_hole = True
    client.writer.write(b"y")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.reader.read(1)
    assert echo.heard == b"x"
    proxy.is_hole = False
    assert await client.reader.readexactly(1) == b"Y"
    client.writer.close()


async def test_a_reset_ends_every_connection(proxy: TcpProxy) -> None:
    clients = [await connected(proxy) for _ in range(3)]
    for client in clients:
        assert await client.ask(b"x") == b"X"
    assert proxy.reset() == 3
    for client in clients:
        with pytest.raises(ConnectionResetError):
            await client.reader.read(1)


async def test_an_upstream_that_is_away_is_a_reset(proxy: TcpProxy) -> None:
    async with TcpProxy(free_port()) as nowhere:
        client = await connected(nowhere)
        with pytest.raises(ConnectionResetError):
            await client.reader.read(1)


async def test_the_end_of_one_side_is_passed_on(proxy: TcpProxy) -> None:
    client = await connected(proxy)
    assert await client.ask(b"x") == b"X"
    assert proxy.connections == 1
    client.writer.close()
    await eventually(lambda: proxy.connections, 5.0)
