"""uvicorn's HTTP protocol, of which a connection gets what it comes to need: a fleet that comes back brings thousands of them a second.

Owns what uvicorn's constructor and its `connection_made` do, and does it later or never: a parser for who is not read at a glance, an event
for who is written to through an application, addresses for who is asked about them. What never changes is the class's.
"""

import asyncio
import logging
from collections import deque
from functools import cached_property
from typing import Any, Literal

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState


class LazyProtocol(HttpToolsProtocol):
    """One connection. Every attribute of uvicorn's is here, and means the same."""

    logger = logging.getLogger("uvicorn.error")
    access_logger = logging.getLogger("uvicorn.access")
    access_log = False  # it would show query strings
    timeout_keep_alive_task = None
    transport: asyncio.Transport = None  # type: ignore[assignment]  # as uvicorn begins, and so on
    scope = None  # type: ignore[assignment]
    headers: list[tuple[bytes, bytes]] = None  # type: ignore[assignment]
    expect_100_continue = False
    cycle = None  # type: ignore[assignment]

    def __init__(  # does not call uvicorn's
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.config = config
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.ws_protocol_class = config.ws_protocol_class
        self.root_path = config.root_path
        self.limit_concurrency = config.limit_concurrency
        self.timeout_keep_alive = config.timeout_keep_alive
        self.app_state = app_state
        self.server_state = server_state
        self.connections = server_state.connections
        self.tasks = server_state.tasks
        self.pipeline: deque[tuple[RequestResponseCycle, ASGI3Application]] = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # nor this
        self.connections.add(self)
        self.transport = transport

    @cached_property
    def parser(self) -> httptools.HttpRequestParser:  # type: ignore[override]
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return parser

    @cached_property
    def flow(self) -> FlowControl:  # type: ignore[override]
        return FlowControl(self.transport)

    @cached_property
    def asgi_version(self) -> Literal["2.0", "3.0"]:  # type: ignore[override]
        return self.config.asgi_version

    @cached_property
    def server(self) -> tuple[str, int | None] | None:  # type: ignore[override]
        return None if self.transport.is_closing() else get_local_addr(self.transport)

    @cached_property
    def client(self) -> tuple[str, int] | None:  # type: ignore[override]
        return None if self.transport.is_closing() else get_remote_addr(self.transport)

    @cached_property
    def scheme(self) -> Literal["http", "https"]:  # type: ignore[override]
        return "https" if is_ssl(self.transport) else "http"
