"""A server that stops answers who had connected before: a restart behind a shared listening socket costs no call."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster import serving
from cluster.http_limits import HttpLimits
from tests.support.eventually import eventually

REQUEST = b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
LIMITS = HttpLimits(last_call_s=0.3)


async def _answer_all(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def server() -> AsyncIterator[tuple[serving.Server, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = serving.server(_answer_all, LIMITS)
    serving_task = asyncio.create_task(server.serve_on([listener]))
    await server.is_listening.wait()
    yield server, listener.getsockname()[1]
    server.should_exit = True
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(serving_task, 5.0)


async def _connected(server: serving.Server, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    streams = await asyncio.open_connection("127.0.0.1", port)
    await eventually(lambda: not server.server_state.connections and "nobody is connected")
    return streams


async def test_who_had_connected_is_answered_and_told_that_it_was_the_last(server: tuple[serving.Server, int]) -> None:
    reader, writer = await _connected(*server)
    server[0].should_exit = True
    await eventually(lambda: any(one.is_serving() for one in server[0].servers) and "it still listens")
    writer.write(REQUEST)
    answer = await asyncio.wait_for(reader.read(), 5.0)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert b"connection: close" in answer
    writer.close()


async def test_who_keeps_a_connection_may_send_once_more(server: tuple[serving.Server, int]) -> None:
    reader, writer = await _connected(*server)
    writer.write(REQUEST)
    await reader.readuntil(b"ok")
    server[0].should_exit = True
    await eventually(lambda: any(one.is_serving() for one in server[0].servers) and "it still listens")
    writer.write(REQUEST)
    answer = await asyncio.wait_for(reader.read(), 5.0)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert b"connection: close" in answer
    writer.close()


async def test_who_sends_nothing_is_not_waited_for(server: tuple[serving.Server, int]) -> None:
    reader, writer = await _connected(*server)
    server[0].should_exit = True
    assert await asyncio.wait_for(reader.read(), LIMITS.last_call_s + 2.0) == b""
    writer.close()
