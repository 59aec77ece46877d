"""Real sockets and uvicorn servers: a router that accepts, nodes that adopt, in one event loop or as processes that can be killed."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidMessage

from cluster.http_protocol import HttpLimits, HttpProtocol
from node.adoption import Adoption
from router.handover import Handover, HandoverProtocol, Target
from tests.support.eventually import eventually

HTTP: Any = functools.partial(HttpProtocol, limits=HttpLimits())
UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASKED_HELLO = b"\x81\x85\0\0\0\0hello"


def echo_as(name: str) -> Any:
    """An application that says who it is and whom it sees, then echoes."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": f"{name} {scope['client'][1]} {scope['path']}"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    return echo


class Node:
    """The adopting side, with uvicorn's own WebSocket protocol."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.file = folder / f"{name}.sock"
        self.path = str(self.file)
        self.state = ServerState()
        self.config = uvicorn.Config(
            echo_as(name),
            http=HTTP,
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
        )
        self.config.load()
        self.adoption = Adoption(self.path, self.make_protocol)

    def make_protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(config=self.config, server_state=self.state, app_state={})
        return protocol

    def target(self, load: int = 0) -> Target:
        return Target(self.name, self.path, load)

    async def start(self) -> "Node":
        await self.adoption.start()
        return self

    async def close(self) -> None:
        self.adoption.stop()
        for connection in list(self.state.connections):
            connection.transport.abort()
        await eventually(lambda: self.state.connections or self.state.tasks)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Router:
    """The accepting side; plain requests are answered by itself."""

    def __init__(self, handover: Handover) -> None:
        self.handover = handover
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        ws: Any = functools.partial(HandoverProtocol, handover=handover)
        self.server = uvicorn.Server(
            uvicorn.Config(answer, http=HTTP, ws=ws, lifespan="off", log_config=None, access_log=False)
        )

    async def start(self) -> "Router":
        config = self.server.config
        config.load()
        self.server.lifespan = config.lifespan_class(config)
        await self.server.startup(sockets=[self.listener])
        return self

    async def close(self) -> None:
        for server in self.server.servers:
            server.close()
        self.listener.close()
        self.handover.close()
        await eventually(lambda: self.connections)

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def dial(self, path: str = "/ws/agent/1", **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None, ping_interval=None, close_timeout=1, **options)

    async def send(self, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)
        return reader, writer

    async def ask(self, request: bytes) -> bytes:
        """All that is answered until the router closes."""
        reader, writer = await self.send(request)
        answer = await reader.read()
        writer.close()
        return answer


Start = Callable[..., Any]


@pytest.fixture
async def start_router() -> AsyncIterator[Callable[..., Any]]:
    routers: list[Router] = []

    async def start(*targets: Target, **options: Any) -> Router:
        handover = Handover(**{"hold_s": 0.4} | options)
        handover.update(targets)
        routers.append(await Router(handover).start())
        return routers[-1]

    yield start
    for router in routers:
        await router.close()


@pytest.fixture
async def start_node(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    nodes: list[Node] = []

    async def start(name: str) -> Node:
        nodes.append(await Node(tmp_path, name).start())
        return nodes[-1]

    yield start
    for node in nodes:
        await node.close()


async def name_of(connection: ClientConnection) -> str:
    """The node that a connection ended at."""
    return str(await connection.recv()).split()[0]


async def echoes(connection: ClientConnection) -> bool:
    await connection.send("hello")
    return await connection.recv() == "hello"


def status_and_body(answer: bytes) -> tuple[int, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head.split()[1]), msgspec.json.decode(body)


async def test_an_adopted_websocket_talks_to_the_node_and_shows_its_real_client(
    start_router: Start, start_node: Start
) -> None:
    node = await start_node("n1")
    router = await start_router(node.target())
    async with router.dial("/ws/agent/17") as connection:
        assert await connection.recv() == f"n1 {connection.local_address[1]} /ws/agent/17"
        assert await echoes(connection)
    assert (node.adoption.adopted, node.adoption.broken, router.handover.given) == (1, 0, 1)


async def test_the_router_keeps_nothing_of_what_it_gave_away(start_router: Start, start_node: Start) -> None:
    router = await start_router((await start_node("n1")).target())
    async with router.dial() as connection:
        assert await echoes_after_greeting(connection)
        assert router.connections == 0
    before = descriptors()
    for _ in range(20):
        async with router.dial() as connection:
            await connection.recv()
    await eventually(lambda: descriptors() - before > 1 and "descriptors leak")


async def echoes_after_greeting(connection: ClientConnection) -> bool:
    await connection.recv()
    return await echoes(connection)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_plain_requests_stay_with_the_router(start_router: Start, start_node: Start) -> None:
    router = await start_router((await start_node("n1")).target())
    assert (await router.ask(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 204")


async def test_hundreds_are_spread_evenly(start_router: Start, start_node: Start) -> None:
    nodes = [await start_node(name) for name in ("n1", "n2", "n3")]
    router = await start_router(*[node.target() for node in nodes])
    async with contextlib.AsyncExitStack() as stack:
        opened = [stack.enter_async_context(router.dial()) for _ in range(300)]
        connections = await asyncio.gather(*opened)
        assert Counter([await name_of(connection) for connection in connections]) == {"n1": 100, "n2": 100, "n3": 100}
        assert all(await asyncio.gather(*map(echoes, connections)))


async def test_the_least_loaded_node_gets_the_next(start_router: Start, start_node: Start) -> None:
    busy, idle = await start_node("busy"), await start_node("idle")
    router = await start_router(busy.target(load=6), idle.target(load=1))
    async with contextlib.AsyncExitStack() as stack:
        names = [await name_of(await stack.enter_async_context(router.dial())) for _ in range(9)]
    assert names[:5] == ["idle"] * 5
    assert Counter(names) == {"idle": 7, "busy": 2}


async def test_nodes_come_and_go(start_router: Start, start_node: Start) -> None:
    first, second = await start_node("n1"), await start_node("n2")
    router = await start_router(first.target())
    async with router.dial() as one:
        assert await name_of(one) == "n1"
        router.handover.update([second.target()])
        async with router.dial() as other:
            assert await name_of(other) == "n2"
        assert await echoes(one)


async def test_a_node_that_stops_loses_nobody(start_router: Start, start_node: Start) -> None:
    nodes = [await start_node(name) for name in ("n1", "n2")]
    router = await start_router(*[node.target() for node in nodes])
    async with contextlib.AsyncExitStack() as stack:
        dials = [asyncio.create_task(stack.enter_async_context(router.dial())) for _ in range(200)]
        await eventually(lambda: router.handover.given < 50 and "not amid them")
        nodes[0].adoption.stop()
        connections = await asyncio.gather(*dials)
        assert all(await asyncio.gather(*map(echoes_after_greeting, connections)))
    assert nodes[0].adoption.adopted + nodes[1].adoption.adopted == 200


async def test_an_upgrade_waits_for_a_node_that_is_not_there_yet(
    start_router: Start, start_node: Start, tmp_path: Path
) -> None:
    absent = Target("n1", str(tmp_path / "n1.sock"), 0)
    router = await start_router(absent, hold_s=5)
    dial = asyncio.create_task(router.dial().__aenter__())
    await eventually(lambda: router.handover.held != 1 and "not held")
    await start_node("n1")
    connection = await dial
    assert await echoes_after_greeting(connection)
    assert router.handover.held == 0
    await connection.close()


async def test_those_who_wait_are_served_in_order_when_a_node_is_added(start_router: Start, start_node: Start) -> None:
    router = await start_router(hold_s=5)
    streams = []
    for number in range(5):
        streams.append(await router.send(UPGRADE % b"/ws/%d" % number))
        await eventually(lambda: router.handover.held != len(streams) and "not held")
    node = await start_node("n1")
    router.handover.update([node.target()])
    for reader, writer in streams:
        assert (await reader.readline()).startswith(b"HTTP/1.1 101")
        writer.close()


async def test_without_a_node_an_upgrade_is_refused_late(start_router: Start) -> None:
    router = await start_router()
    began = asyncio.get_running_loop().time()
    answer = await router.ask(UPGRADE % b"/ws/agent/1")
    assert asyncio.get_running_loop().time() - began > 0.3
    assert status_and_body(answer) == (503, {"code": 2000, "error": "no node can take this connection"})
    assert b"retry-after: 1\r\n" in answer
    assert router.handover.refused == 1
    await eventually(lambda: router.connections)


async def test_the_line_of_those_who_wait_is_bounded(start_router: Start) -> None:
    router = await start_router(hold_s=30, max_held=2)
    waiting = [await router.send(UPGRADE % b"/ws/agent/1") for _ in range(2)]
    assert status_and_body(await router.ask(UPGRADE % b"/ws/agent/1"))[0] == 503
    assert router.handover.held == 2
    for _, writer in waiting:
        writer.close()


async def test_a_router_that_stops_refuses_those_who_wait(start_router: Start, start_node: Start) -> None:
    router = await start_router(hold_s=30)
    reader, writer = await router.send(UPGRADE % b"/ws/agent/1")
    await router.server.shutdown(sockets=[router.listener])
    assert status_and_body(await reader.read())[0] == 503
    writer.close()
    router.handover.update([(await start_node("n1")).target()])
    assert (router.handover.held, router.handover.given) == (0, 0)


@pytest.mark.parametrize("path", [b"/", b"/ws", b"/api/agents", b"/wsx/1", b"http://test/ws/1"])
async def test_an_upgrade_elsewhere_is_not_found(start_router: Start, start_node: Start, path: bytes) -> None:
    node = await start_node("n1")
    router = await start_router(node.target())
    status, body = status_and_body(await router.ask(UPGRADE % path))
    assert (status, body["code"]) == (404, 1003)
    assert node.adoption.adopted == 0


async def test_frames_right_behind_the_handshake_survive(start_router: Start, start_node: Start) -> None:
    router = await start_router((await start_node("n1")).target())
    reader, writer = await router.send(UPGRADE % b"/ws/agent/1" + MASKED_HELLO)
    await reader.readuntil(b"\r\n\r\n")
    assert (await reader.readuntil(b"hello")).endswith(b"\x81\x05hello")
    writer.close()


async def test_frames_sent_while_waiting_survive(start_router: Start, start_node: Start) -> None:
    router = await start_router(hold_s=5)
    reader, writer = await router.send(UPGRADE % b"/ws/agent/1" + MASKED_HELLO, MASKED_HELLO, MASKED_HELLO)
    router.handover.update([(await start_node("n1")).target()])
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(3):
        await reader.readuntil(b"\x81\x05hello")
    writer.close()


async def test_more_than_one_message_can_carry_is_refused(start_router: Start, start_node: Start) -> None:
    router = await start_router((await start_node("n1")).target())
    assert status_and_body(await router.ask(UPGRADE % b"/ws/agent/1" + MASKED_HELLO * 5000))[0] == 431


async def test_the_largest_head_can_be_handed_over(start_router: Start, start_node: Start) -> None:
    router = await start_router((await start_node("n1")).target())
    async with router.dial("/ws/" + "p" * 8000, additional_headers={"A": "b" * 7900}) as connection:
        assert await echoes_after_greeting(connection)


async def test_a_node_that_reads_nothing_gets_few_and_the_rest_wait_for_room(
    start_router: Start, tmp_path: Path
) -> None:
    path = str(tmp_path / "deaf.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
        deaf.bind(path)
        deaf.listen(1)
        router = await start_router(Target("deaf", path, 0), hold_s=20)
        clients = [await asyncio.open_connection("127.0.0.1", router.port) for _ in range(120)]
        for _, writer in clients:
            writer.write(UPGRADE % b"/ws/agent/1")
        await eventually(lambda: router.handover.held + router.handover.given != 120 and "not all have come")
        assert 4 < router.handover.given < 60
        channel, _ = deaf.accept()
        channel.setblocking(False)
        received = 0
        while received < 120:
            await eventually(lambda: router.handover.held and not has_input(channel) and "nothing comes")
            _, sockets, _, _ = socket.recv_fds(channel, 65536, 1)
            received += len(sockets)
            for descriptor in sockets:
                os.close(descriptor)
        assert router.handover.held == 0
        for _, writer in clients:
            writer.close()
        channel.close()


def has_input(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


NODE_PROCESS = """
import asyncio, ctypes, functools, os, sys, uvicorn, uvloop
from uvicorn.server import ServerState
ctypes.CDLL(None).prctl(1, 9)
from cluster.http_protocol import HttpLimits, HttpProtocol
from node.adoption import Adoption

async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": f"{os.getpid()} {scope['client'][1]}"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})

async def main():
    http = functools.partial(HttpProtocol, limits=HttpLimits())
    config = uvicorn.Config(echo, http=http, ws="websockets-sansio", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    adoption = Adoption(sys.argv[1], lambda: config.http_protocol_class(config=config, server_state=state, app_state={}))
    await adoption.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


class NodeProcess:
    """A node that can be killed and paused."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", NODE_PROCESS, self.path, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"ready\n"

    @property
    def name(self) -> str:
        return str(self.process.pid)

    def target(self) -> Target:
        return Target(Path(self.path).stem, self.path, 0)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[NodeProcess]:
    started = NodeProcess(tmp_path / "process.sock")
    await started.start()
    yield started
    await started.kill()


async def test_a_killed_node_is_left_out_and_taken_back(
    start_router: Start, start_node: Start, process: NodeProcess
) -> None:
    other = await start_node("other")
    router = await start_router(process.target(), other.target(), hold_s=5)
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(router.dial()) for _ in range(40)]
        names = [await name_of(connection) for connection in connections]
        assert Counter(names) == {process.name: 20, "other": 20}
        await process.kill()
        after = [await name_of(await stack.enter_async_context(router.dial())) for _ in range(40)]
        assert set(after) == {"other"}
        assert all([await echoes(found) for found, name in zip(connections, names, strict=True) if name == "other"])
        await process.start()
        await asyncio.sleep(0.2)  # as long as a peer that failed is left alone
        again = [await name_of(await stack.enter_async_context(router.dial())) for _ in range(30)]
        assert process.name in again


async def test_a_kill_amid_a_storm_costs_only_what_was_at_the_dead_node(
    start_router: Start, start_node: Start, process: NodeProcess
) -> None:
    other = await start_node("other")
    router = await start_router(process.target(), other.target(), hold_s=5)
    async with contextlib.AsyncExitStack() as stack:
        dials = [asyncio.create_task(stack.enter_async_context(router.dial())) for _ in range(300)]
        await eventually(lambda: router.handover.given < 100 and "not amid them")
        await process.kill()
        opened = await asyncio.gather(*dials, return_exceptions=True)
        failed = [found for found in opened if isinstance(found, BaseException)]
        assert all(isinstance(error, InvalidMessage | ConnectionError) for error in failed)
        assert len(failed) < 100
        served = await asyncio.gather(*[is_served_by(found, "other") for found in opened if found not in failed])
        assert sum(served) >= 150


async def is_served_by(connection: Any, name: str) -> bool:
    try:
        return await name_of(connection) == name
    except Exception:  # noqa: BLE001  # it was with the dead node
        return False


async def test_a_paused_node_gets_few_and_answers_them_later(
    start_router: Start, start_node: Start, process: NodeProcess
) -> None:
    router = await start_router(process.target(), (await start_node("other")).target(), hold_s=5)
    process.process.send_signal(signal.SIGSTOP)
    async with contextlib.AsyncExitStack() as stack:
        dials = [asyncio.create_task(stack.enter_async_context(router.dial())) for _ in range(200)]
        await eventually(lambda: sum(dial.done() for dial in dials) < 140 and "too few are served")
        await eventually(lambda: router.handover.given != 200 and "not all were given away")
        process.process.send_signal(signal.SIGCONT)
        names = Counter([await name_of(connection) for connection in await asyncio.gather(*dials)])
        assert names[process.name] < 60
        assert names["other"] > 140


async def test_a_client_that_has_gone_is_no_trouble(
    start_router: Start, start_node: Start, caplog: pytest.LogCaptureFixture
) -> None:
    router = await start_router(hold_s=5)
    for _ in range(10):
        _, writer = await router.send(UPGRADE % b"/ws/agent/1")
        writer.transport.abort()
    node = await start_node("n1")
    router.handover.update([node.target()])
    await eventually(lambda: node.adoption.adopted + node.adoption.broken != 10 and "not all were taken")
    await eventually(lambda: node.state.connections)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
