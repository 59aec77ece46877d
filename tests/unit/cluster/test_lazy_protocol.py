"""A connection has what uvicorn's own has, though most of it is not made."""

import asyncio
from collections import deque
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from cluster.lazy_protocol import LazyProtocol

MADE_ANEW = {"parser": httptools.HttpRequestParser, "flow": FlowControl, "pipeline": deque}


async def application(_scope: Any, _receive: Any, _send: Any) -> None:
    """Is never asked."""


class Transport(asyncio.Transport):
    """Of a connection between two addresses."""

    def __init__(self, *, is_closing: bool = False) -> None:
        super().__init__({"sockname": ("192.0.2.1", 80), "peername": ("192.0.2.2", 4711)})
        self._is_closing = is_closing

    def is_closing(self) -> bool:
        return self._is_closing


@pytest.fixture
def config() -> uvicorn.Config:
    config = uvicorn.Config(application, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    return config


async def test_every_attribute_of_uvicorns_is_there_and_means_the_same(config: uvicorn.Config) -> None:
    state, transport, app_state = ServerState(), Transport(), {"x": 1}
    stock = HttpToolsProtocol(config, state, app_state)
    ours = LazyProtocol(config, state, app_state)
    for protocol in (stock, ours):
        protocol.connection_made(transport)
    stock.access_log = False  # which is what it finds where no test listens to all loggers
    for name, value in vars(stock).items():
        found = getattr(ours, name)
        assert (type(found) is MADE_ANEW[name]) if name in MADE_ANEW else (found == value), name
    assert state.connections == {stock, ours}


@pytest.mark.parametrize("name", MADE_ANEW)
async def test_no_connection_shares_what_is_its_own(config: uvicorn.Config, name: str) -> None:
    one, other = (LazyProtocol(config, ServerState(), {}) for _ in range(2))
    for protocol in (one, other):
        protocol.connection_made(Transport())
    assert getattr(one, name) is getattr(one, name)
    assert getattr(one, name) is not getattr(other, name)


async def test_who_has_gone_has_no_address(config: uvicorn.Config) -> None:
    protocol = LazyProtocol(config, ServerState(), {})
    protocol.connection_made(Transport(is_closing=True))
    assert (protocol.client, protocol.server) == (None, None)
