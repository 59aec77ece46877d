"""uvicorn as this project runs it: several servers in one loop, our signals, our sockets, our protocol classes.

Knows nothing of what the apps answer.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from cluster import settings
from cluster.http_protocol import BodyBudget, HttpLimits, HttpProtocol, Shortcut

STOP_S = 4.0  # what an ending server may take to answer what was asked
BODIES_BYTES = 256 << 20  # what large request bodies of one server may hold together
BACKLOG = 4096  # a whole fleet may reconnect in one moment


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none."""
        yield

    async def serve_on(self, sockets: list[socket.socket]) -> None:
        """Serves on these sockets until `should_exit` is set; without any, it serves what `make_websocket` is fed."""
        await self.serve(sockets=sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        self.is_listening.set()

    def make_websocket(self) -> Any:
        """A protocol for a connection that was accepted, and its upgrade request checked, elsewhere."""
        make: Any = self.config.ws_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def server(
    app: ASGIApp,
    limits: HttpLimits,
    ws: Callable[..., Any] | None = None,
    tls: ssl.SSLContext | None = None,
    shortcut: Shortcut | None = None,
) -> Server:
    """A server of an app. `ws`: the protocol class of WebSocket upgrades, None = there are none; `shortcut`: see `HttpProtocol`."""
    config = uvicorn.Config(
        app,
        http=partial(HttpProtocol, limits=limits, bodies=BodyBudget(BODIES_BYTES), shortcut=shortcut),  # type: ignore[arg-type]
        ws=ws or "none",  # type: ignore[arg-type]
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(STOP_S - 1),
    )
    config.load()
    if tls is not None:
        config.ssl = tls
    return Server(config)


def limits_of(config: settings.Server) -> HttpLimits:
    """The limits of HTTP requests, by the configuration."""
    return HttpLimits(
        max_body_bytes=config.max_body_bytes, body_timeout_s=config.read_timeout_s, write_stall_s=config.write_timeout_s
    )


def tls_context(config: settings.Server) -> ssl.SSLContext | None:
    """The server side of TLS; None when no certificate is configured. Raises: OSError, ssl.SSLError."""
    if not config.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(config.tls_cert, config.tls_key or None)
    return context
