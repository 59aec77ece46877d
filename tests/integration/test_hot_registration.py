"""Registrations that are answered without an application, and what is left to it."""

import asyncio
import json
import logging
from collections import Counter
from typing import Any, cast

import pytest

from cluster.exchange import Exchange
from cluster.hot_registration import HotRegistration
from cluster.proxies import TrustedProxies
from cluster.registration import EVENTS, RegistrationEndpoint
from tests.integration.core import Core
from tests.support.eventually import eventually

PROXY = "192.0.2.9"


class Asked:
    """In the place of an exchange: one request, and its answer."""

    def __init__(self, body: Any, *, method: str = "POST", path: str = "/api/agents/register/", **headers: str) -> None:
        peer = headers.pop("peer", "192.0.2.1")
        fields = {"host": "there:8080", **headers}
        self.scope = {
            "type": "http", "method": method, "path": path, "scheme": "http",
            "client": (peer, 1),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()],
        }  # fmt: skip
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.told: list[tuple[int, dict[bytes, bytes], Any]] = []
        self.has_hung_up = False

    async def is_gone(self) -> bool:
        return self.has_hung_up

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        assert dict(headers)[b"content-length"] == b"%d" % len(body)
        self.told.append((status, dict(headers), json.loads(body)))

    async def answered(self) -> tuple[int, Any]:
        await eventually(lambda: not self.told and "not answered")
        [(status, headers, body)] = self.told
        assert headers[b"content-type"] == b"application/json"
        return status, body


class Desk:
    """The shortcut on a real Redis."""

    def __init__(self, core: Core, *, is_open: bool = True) -> None:
        self.counts = dict.fromkeys(EVENTS, 0)
        self.endpoint = RegistrationEndpoint(
            core.store, core.registry, core.feeds, public_url="", is_open=is_open, counts=self.counts
        )
        self._hot = HotRegistration(self.endpoint, TrustedProxies(cast("Any", None), [PROXY]))

    def takes(self, asked: Asked) -> bool:
        return self._hot(cast("Exchange", asked))


@pytest.mark.parametrize("slash", ["", "/"])
async def test_an_agent_is_registered_and_told_where_to_dial(core: Core, slash: str) -> None:
    asked = Asked({"name": "web", "token": "token-1", "host_id": 7}, path=f"/api/agents/register{slash}")
    assert Desk(core).takes(asked)
    status, told = await asked.answered()
    agent_id = await core.registry.resolve("7")
    assert (status, told) == (
        200, {"id": agent_id, "name": "web", "status": "active", "ws_url": f"ws://there:8080/ws/agent/{agent_id}"}
    )  # fmt: skip


async def test_whom_to_believe_is_asked_of_the_proxies(core: Core) -> None:
    forwarded = {"x_forwarded_proto": "https", "x_forwarded_host": "public", "authorization": "Bearer token-1"}
    desk, trusted, other = Desk(core), Asked({}, peer=PROXY, **forwarded), Asked({}, **forwarded)
    assert desk.takes(trusted)
    assert desk.takes(other)
    bases = [(await asked.answered())[1]["ws_url"].partition("/ws/")[0] for asked in (trusted, other)]
    assert bases == ["wss://public", "ws://there:8080"]


@pytest.mark.parametrize(
    "asked",
    [
        Asked({"token": "t"}, method="PUT"),
        Asked({"token": "t"}, path="/api/agents/register/x"),
        Asked({"token": "t"}, path="/api/agents"),
        Asked(b"{"),
        Asked({"token": 1}),
        Asked({"token": "a b"}),
        Asked({"token": "t"}, authorization="Bearer x", host="a/b"),
    ],
    ids=["method", "path below", "path above", "no JSON", "type", "token", "host"],
)
async def test_what_is_not_good_is_left_to_the_application(core: Core, asked: Asked) -> None:
    desk = Desk(core)
    assert not desk.takes(asked)
    await asyncio.sleep(0)
    assert (asked.told, await core.registry.ids(), +Counter(desk.counts)) == ([], [], Counter())


async def test_who_is_refused_hears_it_as_from_the_application(core: Core) -> None:
    desk, asked = Desk(core, is_open=False), Asked({"token": "token-of-a-stranger"})
    assert desk.takes(asked)
    assert await asked.answered() == (404, {"code": 1003, "error": "unknown token"})
    assert +Counter(desk.counts) == {"refused": 1}


async def test_a_fault_of_ours_is_told_as_such_and_logged_once(
    core: Core, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk, asked = Desk(core), Asked({"token": "token-1"})
    monkeypatch.setattr(core.registry, "register", None)
    assert desk.takes(asked)
    assert await asked.answered() == (500, {"code": 1001, "error": "internal error"})
    assert [record.levelno for record in caplog.records if record.levelno >= logging.ERROR] == [logging.ERROR]


async def test_who_has_hung_up_is_not_registered_later(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count as a new process of the agent."""
    desk, asked = Desk(core), Asked({"token": "token-1"})
    asked.has_hung_up = True
    id_key = core.store._id_key
    monkeypatch.setattr(core.store, "_id_key", b"")  # as while Redis is away
    assert desk.takes(asked)
    status, _ = await asked.answered()
    monkeypatch.setattr(core.store, "_id_key", id_key)
    assert (status, await core.registry.ids()) == (503, [])
