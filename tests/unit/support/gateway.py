"""A server that says to agents whatever a test wants: registration over a few lines of HTTP, WebSockets by the websockets library.

Deliberately not the product: what the simulated agent does must not depend on it.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.support.eventually import eventually

Json = dict[str, Any]


class Registration:
    """A registration that came: its head and its body."""

    def __init__(self, head: str, body: bytes) -> None:
        self.head = head
        self.body: Json = json.loads(body)
        self.at_s = time.monotonic()


class Gateway:
    """What came, and what is answered. `acks`: whether logs and results are acked as they come."""

    def __init__(self) -> None:
        self.registrations: list[Registration] = []
        self.answers: list[tuple[int, str, bytes]] = []  # to the next registrations; afterwards good ones
        self.refusals: list[tuple[int, dict[str, str]]] = []  # of the next handshakes; afterwards none
        self.handshakes: list[Request] = []
        self.dialled_s: list[float] = []
        self.connections: list[ServerConnection] = []
        self.ended: list[int] = []  # close codes, 1006 where there was none
        self.received: list[Json] = []
        self.on_open: list[bytes] = []  # frames sent as soon as a connection is there
        self.is_silent = False  # takes connections for registration, and says nothing
        self.acks = True
        self.reads = asyncio.Event()  # not set: what agents send stays in the socket
        self.reads.set()
        self.http_url = self.ws_url = ""

    def of(self, kind: str) -> list[Json]:
        """The messages of a type that came, in order."""
        return [message for message in self.received if message["type"] == kind]

    @property
    def statuses(self) -> list[str]:
        """Of the results that came."""
        return [message["result"]["status"] for message in self.of("task_result")]

    @property
    def connection(self) -> ServerConnection:
        """The newest."""
        return self.connections[-1]

    async def tell(self, **message: Any) -> None:
        """Send a frame on the newest connection."""
        await self.connection.send(json.dumps(message))

    async def until(self, check: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until this holds."""
        await eventually(
            lambda: None if check() else f"{self.received[-5:]}, {len(self.handshakes)} handshakes", timeout_s
        )

    async def on_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = int(
                next(line for line in head.split("\r\n") if line.lower().startswith("content-length")).split(":")[1]
            )
            self.registrations.append(Registration(head, await reader.readexactly(size)))
            if self.is_silent:
                await reader.read()
                return
            status, kind, body = self.answers.pop(0) if self.answers else self.good_answer()
            text = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(text.encode() + body)
        except (OSError, EOFError):
            return
        finally:
            writer.close()

    def good_answer(self) -> tuple[int, str, bytes]:
        body = {"id": f"id-{len(self.registrations)}", "name": "n", "status": "active", "ws_url": self.ws_url}
        return 200, "application/json", json.dumps(body).encode()

    def on_handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes.append(request)
        self.dialled_s.append(time.monotonic())
        if not self.refusals:
            return None
        status, headers = self.refusals.pop(0)
        answer = connection.respond(HTTPStatus(status), '{"code": 1, "error": "no"}')
        for name, value in headers.items():
            answer.headers[name] = value
        return answer

    async def on_connection(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        try:
            for frame in self.on_open:
                await connection.send(frame.decode())
            await self.reads.wait()
            async for text in connection:
                await self.on_frame(connection, json.loads(text))
        except ConnectionClosed:
            pass
        finally:
            self.ended.append(connection.close_code or 0)

    async def on_frame(self, connection: ServerConnection, message: Json) -> None:
        self.received.append(message)
        if self.acks and message["type"] in {"log", "task_result"}:
            await connection.send(json.dumps({"type": "ack", "ack_id": message["message_id"]}))


def select_token(_: ServerConnection, offered: Any) -> Any:
    return "agent-token" if "agent-token" in offered else None


@asynccontextmanager
async def running_gateway(*, compression: str | None = None) -> AsyncIterator[Gateway]:
    """A gateway on two free ports, closed with everything on it at the end."""
    gateway = Gateway()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        http = await asyncio.start_server(gateway.on_http, "127.0.0.1", 0)
        webs = await _serve(gateway, listening, compression)
        gateway.http_url = f"http://127.0.0.1:{http.sockets[0].getsockname()[1]}"
        gateway.ws_url = f"ws://127.0.0.1:{listening.getsockname()[1]}/ws/agent/some-id"
        try:
            yield gateway
        finally:
            gateway.reads.set()
            for connection in gateway.connections:
                connection.transport.abort()
            http.close()
            webs.close()
            await webs.wait_closed()


async def _serve(gateway: Gateway, listening: socket.socket, compression: str | None) -> Server:
    return await serve(
        gateway.on_connection,
        sock=listening,
        process_request=gateway.on_handshake,
        select_subprotocol=select_token,
        compression=compression,
        ping_interval=None,
        close_timeout=0.1,
        max_queue=2,
        logger=None,
    )
