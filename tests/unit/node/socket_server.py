"""A uvicorn server in a thread, with an app whose endpoint does what its path says, and a client that writes raw bytes."""

import asyncio
import contextlib
import dataclasses
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from cluster.http_protocol import HttpLimits, HttpProtocol
from node.handshake import Handshake
from node.limits import Limits
from node.socket import Link
from node.wheel import Wheel
from tests.support.eventually import eventually_blocking
from tests.unit.node.frame_text import PING, Frame

Result = TypeVar("Result")

SECOND_S = 0.05  # of the servers' wheels
LIMITS = Limits(max_message_bytes=8 << 20, ping_s=4, close_s=4, stall_s=100, handshake_timeout_s=5.0)
IMPATIENT = dataclasses.replace(LIMITS, stall_s=6, handshake_timeout_s=0.5)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class EchoSession:
    """Sends everything back, but for a few words."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.messages: list[bytes] = []
        self.lost = 0

    def attached(self, link: Link) -> None:
        self.link = link

    def on_message(self, payload: bytes) -> None:
        self.messages.append(payload)
        assert self.link is not None
        if payload == b"boom":
            raise ValueError(payload)
        if payload == b"pause":
            self.link.pause()
        elif payload == b"bye":
            self.link.close(4403)
        elif payload.startswith(b"flood"):
            for _ in range(int(payload[5:])):
                self.link.send(b"x" * 60_000)
        else:
            self.link.send(payload)

    def on_writable(self) -> None:
        pass

    def on_lost(self) -> None:
        self.lost += 1


class App:
    """The node's app, as far as a handshake is concerned."""

    def __init__(self) -> None:
        self.sessions: dict[str, EchoSession] = {}
        self.scopes: dict[str, Any] = {}
        self.entered: list[str] = []
        self.gate = asyncio.Event()  # `slow` waits for it
        self.asgi = Starlette(routes=[WebSocketRoute("/ws/agent/{name:path}", self.enter), Route("/hi", self.hi)])

    async def hi(self, _: object) -> JSONResponse:
        return JSONResponse({})

    async def enter(self, ws: WebSocket) -> None:
        name = ws.path_params["name"]
        kind = name.partition("-")[0]
        self.scopes[name] = {key: value for key, value in ws.scope.items() if key != "extensions"}
        self.entered.append(name)
        await self._before(kind, ws)
        if kind == "none":
            refusal = JSONResponse({"code": 1003, "error": "unknown agent"}, 404, {"Retry-After": "5"})
            await ws.send_denial_response(refusal)
            return
        if kind == "noattach":
            return
        self._attach(name, ws)
        if kind == "after":
            raise RuntimeError("after attaching")
        if kind == "closes":
            await ws.close(1000)

    async def _before(self, kind: str, ws: WebSocket) -> None:
        if kind == "raise":
            raise RuntimeError("before accepting")
        if kind == "hang":
            await asyncio.sleep(60)
        if kind == "accepts":
            await ws.accept()
        if kind == "answered":
            await ws.send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        if kind == "slow":
            await self.gate.wait()

    def _attach(self, name: str, ws: WebSocket) -> None:
        session = EchoSession()
        self.sessions[name] = session
        ws.scope["extensions"]["link"](session, "agent-token" if "agent-token" in ws.scope["subprotocols"] else None)


class Server:
    """Listens on a port of its own until `stop`."""

    def __init__(self, limits: Limits = LIMITS, *, is_stock: bool = False, tls: ssl.SSLContext | None = None) -> None:
        """`is_stock`: uvicorn's own HTTP protocol, on asyncio's own loop."""
        self.app = App()
        self.wheel = Wheel(SECOND_S)
        http: Any = "httptools" if is_stock else functools.partial(HttpProtocol, limits=HttpLimits())
        self.refused: list[str] = []
        ws: Any = functools.partial(Handshake, limits=limits, wheel=self.wheel, count=self.refused.append)
        config = uvicorn.Config(
            self.app.asgi, http=http, ws=ws, loop="none", lifespan="off", log_config=None, access_log=False,
            timeout_graceful_shutdown=3,
        )  # fmt: skip
        config.load()
        if tls is not None:
            config.ssl = tls
        self.uvicorn = uvicorn.Server(config)
        self.uvicorn.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._new_loop: Callable[[], asyncio.AbstractEventLoop] = (
            asyncio.new_event_loop if is_stock else uvloop.new_event_loop
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="server")
        self._thread.start()
        eventually_blocking(lambda: not self.uvicorn.started)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.uvicorn.serve(sockets=[self._listener])
        self.wheel.stop()

    def stop(self) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it has stopped already
            self._loop.call_soon_threadsafe(self.app.gate.set)
        self.uvicorn.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "the server does not stop"

    def do(self, call: Callable[..., Result], *args: Any) -> Result:
        """Calls it in the server's loop."""

        async def run() -> Result:
            return call(*args)

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

    def session(self, name: str) -> EchoSession:
        eventually_blocking(lambda: name not in self.app.sessions and f"no session {name}")
        return self.app.sessions[name]

    def link(self, name: str) -> Link:
        session = self.session(name)
        eventually_blocking(lambda: session.link is None and "not attached")
        link = session.link
        assert link is not None
        return link


@contextlib.contextmanager
def serving(limits: Limits = LIMITS, *, is_stock: bool = False, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(limits, is_stock=is_stock, tls=tls)
    try:
        yield server
    finally:
        server.stop()


def request(path: str = "/ws/agent/a", *, method: str = "GET", **changed: str | None) -> bytes:
    """A handshake. A header is named with `_` for `-`; None leaves it out."""
    headers: dict[str, str | None] = {
        "host": "x",
        "upgrade": "websocket",
        "connection": "keep-alive, Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "agent-token, good",
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    return "\r\n".join((*lines, "", "")).encode()


class Peer:
    """A client's end of a connection."""

    def __init__(self, port: int, first: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._read = bytearray()
        self.send(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def upgraded(self) -> Self:
        self.head = self._until(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        return self

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        return self._take(self._read.index(end) + len(end))

    def _take(self, count: int) -> bytes:
        while len(self._read) < count:
            self._more()
        taken = bytes(memoryview(self._read)[:count])
        del self._read[:count]
        return taken

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError
        self._read += data

    def any_frame(self) -> Frame:
        first, size = self._take(2)
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
        elif size == 127:
            size = int.from_bytes(self._take(8), "big")
        return Frame(first, self._take(size))

    def frame(self) -> Frame:
        """The next that is no ping."""
        while (frame := self.any_frame()).opcode == PING:
            pass
        return frame

    def rest(self) -> bytes:
        """All until the connection ends, however it does."""
        try:
            while True:
                self._more()
        except (EOFError, ConnectionError):
            return bytes(self._read)

    def answer(self) -> bytes:
        """The same, and it has to end well."""
        try:
            while True:
                self._more()
        except EOFError:
            return bytes(self._read)

    def close_code(self) -> int | None:
        """The code of the close frame that comes, behind whatever else; then the stream has ended."""
        while (frame := self.frame()).opcode != 8:
            pass
        with pytest.raises(EOFError):  # and not a reset, which may destroy what the peer has not read yet
            self._take(1)
        return frame.code
