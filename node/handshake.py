"""The way in: one upgrade request as an ASGI app sees it, then a `Link`.

A uvicorn `ws=` class, once it has its limits and wheel: `functools.partial(Handshake, limits=..., wheel=...)`. The app runs for the
handshake alone: it refuses with a response (`websocket.http.response`), or it accepts by attaching the session that gets the messages:
`scope["extensions"]["link"](session, subprotocol)`. Knows neither agents nor tokens.

- A session that was attached is told how it ends (`attached`, later `on_lost`), also when its peer has gone, or was
  refused, before it came: an app that attaches has nothing to clean up. So accepting for a peer that has gone is no error.
- `handshake_timeout_s` for all of it, the app included: then 503, and the app is cancelled.
- A refusal is no error of ours and logs none; it carries `content-length` and `connection: close`.
- What the peer sends before its session is there is kept: up to 64 KiB, then reading waits.
"""

import asyncio
import contextlib
import enum
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from uvicorn import Config
from uvicorn.protocols.utils import get_remote_addr, is_ssl
from uvicorn.server import ServerState

from cluster import close_codes
from cluster.refusal import BAD_PARAMETER, NOT_FOUND, Farewell
from cluster.replies import INTERNAL
from node import frames, upgrade
from node.limits import Limits
from node.socket import Link, Session
from node.upgrade import Headers, Refusal, Upgrade
from node.wheel import Wheel

MAX_EARLY_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class Phase(enum.Enum):
    """How far a handshake has come. Nothing leads back."""

    HEAD = "the request is awaited"
    ASKED = "the app has it"
    DONE = "refused, lost, or a link's"


class Handshake(asyncio.Protocol):
    """One upgrade request. Holds what only a handshake needs, and is forgotten with it."""

    def __init__(  # uvicorn passes the first four
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
        wheel: Wheel,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`count`: one more that was refused here, `malformed` or `timeout`."""
        self._config = config
        self._count = count
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._limits = limits
        self._wheel = wheel
        self._phase = Phase.HEAD
        self._early = bytearray()  # frames that came before the session
        self._was_asked_for = False
        self._request: Upgrade | None = None
        self._is_deflated = False
        self._response: tuple[int, Headers, bytearray] | None = None
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._wheel.start(self._loop)
        self._deadline = self._loop.call_later(self._limits.handshake_timeout_s, self._expire)

    @property
    def _connections(self) -> set[Any]:
        return cast("set[Any]", self._server.connections)

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.HEAD:
            head, _, data = data.partition(b"\r\n\r\n")
            self._phase = Phase.ASKED
            self._task = self._loop.create_task(self._run(head), name="handshake")
            self._server.tasks.add(self._task)
            self._task.add_done_callback(self._server.tasks.discard)
        if self._is_done:
            return
        self._early += data
        if len(self._early) >= MAX_EARLY_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def shutdown(self) -> None:
        """Called by uvicorn when it stops."""
        self._give_up(HTTPStatus.SERVICE_UNAVAILABLE, "shutting down")

    def _expire(self) -> None:
        self._count("timeout")
        if self._task is not None:
            logger.warning("a handshake took more than %s s", self._limits.handshake_timeout_s)
            self._task.cancel()
        self._give_up(HTTPStatus.SERVICE_UNAVAILABLE, "took too long")

    @property
    def _is_done(self) -> bool:
        return self._phase is Phase.DONE

    def _leave(self) -> None:
        self._phase = Phase.DONE
        self._connections.discard(self)
        if self._task is None:  # else it is the app's deadline too
            self._deadline.cancel()

    # The app

    def _scope(self, request: Upgrade) -> dict[str, Any]:
        root_path = self._config.root_path
        return {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self._transport) else "ws",
            "client": get_remote_addr(self._transport),
            "root_path": root_path,
            "path": root_path + request.path,
            "raw_path": root_path.encode("ascii") + request.raw_path,
            "query_string": request.query,
            "headers": request.headers,
            "subprotocols": request.subprotocols(),
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, "link": self._attach},
        }

    async def _run(self, head: bytes) -> None:
        try:
            await self._ask(upgrade.read_upgrade(head))
        except Refusal as refusal:
            self._count("malformed")
            body = upgrade.error_body(BAD_PARAMETER, str(refusal))
            self._refuse(refusal.status, [upgrade.JSON_BODY, *refusal.headers], body)
        except asyncio.CancelledError:
            self._give_up(HTTPStatus.SERVICE_UNAVAILABLE, "shutting down")
            raise
        except Exception:
            logger.exception("a handshake failed")
            self._fail()
        finally:
            self._deadline.cancel()
            self._task = None  # which would lead back here, by the traceback of a cancellation

    async def _ask(self, request: Upgrade) -> None:
        if self._is_done:
            return
        self._request = request
        self._is_deflated = self._limits.deflate and request.offers_deflate()
        app = cast("Any", self._config.loaded_app)
        await app(self._scope(request), self._receive, self._send)
        if not self._is_done:
            logger.error("the app left a handshake unfinished: %s", self._phase.value)
            self._fail()

    async def _receive(self) -> dict[str, Any]:
        """The app hears that there is a request, and nothing else: messages are its session's."""
        if self._was_asked_for:
            return {"type": "websocket.disconnect", "code": frames.NO_CLOSE}
        self._was_asked_for = True
        return {"type": "websocket.connect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self._link is not None:
            raise RuntimeError(f"{message['type']}: the connection is the session's")
        if self._is_done:
            return
        match message["type"]:
            case "websocket.http.response.start":
                self._response = message["status"], message.get("headers") or (), bytearray()
            case "websocket.http.response.body":
                self._respond(message.get("body", b""), is_last=not message.get("more_body"))
            case "websocket.close":  # what Starlette does where no route matches
                self._give_up(HTTPStatus.NOT_FOUND, "not found")
            case unknown:
                raise RuntimeError(f"{unknown}: who accepts attaches a session, and messages go through it")

    # Answers

    def _attach(self, session: Session, subprotocol: str | None = None) -> None:
        """`scope["extensions"]["link"]`: says 101; from here on the connection is the session's."""
        if self._request is None or self._link is not None or self._response is not None:
            raise RuntimeError("a handshake is accepted once, with a session, or refused")
        is_lost = self._is_done or self._transport.is_closing()
        self._leave()
        self._deadline.cancel()
        self._link = Link(
            self._transport, session, self._limits, self._wheel, self._connections, is_deflated=self._is_deflated
        )
        if is_lost:
            self._link.begin_lost()
            return
        self._transport.write(upgrade.switching(self._request.key, subprotocol, deflated=self._is_deflated))
        _tune(self._transport, self._limits)
        self._transport.set_protocol(self._link)
        self._link.begin(bytes(self._early))

    def _respond(self, body: bytes, *, is_last: bool) -> None:
        if self._response is None:
            raise RuntimeError("a response has a start")
        status, headers, whole = self._response
        whole += body
        if is_last:
            self._refuse(status, headers, bytes(whole))

    def _fail(self) -> None:
        if self._link is not None:
            self._link.close(close_codes.INTERNAL_ERROR)
        self._give_up(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")

    def _give_up(self, status: HTTPStatus, error: str) -> None:
        code = NOT_FOUND if status == HTTPStatus.NOT_FOUND else INTERNAL
        self._refuse(status, [upgrade.JSON_BODY], upgrade.error_body(code, error))

    def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        is_due = not self._is_done and not self._transport.is_closing()
        self._leave()
        if is_due:
            answer = upgrade.refusal(status, [*self._server.default_headers, *headers], body)
            Farewell(self._transport, self._connections).say(answer)


def _tune(transport: asyncio.Transport, limits: Limits) -> None:
    """TCP's own patience: what is sent leaves at once, and a peer that acknowledges nothing is given up."""
    found: socket.socket | None = transport.get_extra_info("socket")
    if found is None or transport.is_closing():
        return
    with contextlib.suppress(OSError):  # the peer has gone: the transport finds out by itself
        sock = socket.SocketType(fileno=found.fileno())  # which uvloop would make for each call
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.unacknowledged_s * 1000)
        finally:
            sock.detach()
