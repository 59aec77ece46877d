"""What a registration leaves behind, beside its profile: the status feed's entry, and the counts."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from starlette.requests import Request

from cluster import registration
from cluster.errors import UnknownAgent
from cluster.registration import EVENTS, NAME_CHARS, RegistrationEndpoint
from tests.integration.core import Core


class Desk:
    """The endpoint on a real Redis."""

    def __init__(self, core: Core, *, is_open: bool = True) -> None:
        self.counts = dict.fromkeys(EVENTS, 0)
        self._endpoint = RegistrationEndpoint(
            core.store, core.registry, core.feeds, public_url="ws://here", is_open=is_open, counts=self.counts
        )

    async def register(self, token: str, **body: Any) -> str:
        """The agent's id."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps({"token": token, **body}).encode()}

        request = Request({"type": "http", "headers": [], "client": ("192.0.2.1", 1)}, receive)
        answer = json.loads(bytes((await self._endpoint.register(request)).body))
        agent_id = answer["id"]
        assert isinstance(agent_id, str)
        return agent_id


async def test_the_status_feed_is_told_no_more_than_the_profile_keeps(core: Core) -> None:
    await Desk(core).register("token-1", name="n" * 100_000, system={"hostname": "h" * 100_000, "os": "linux"})
    (entry,) = await core.feed("agent_status")
    assert entry["agent_name"] == "n" * NAME_CHARS
    assert (entry["hostname"], entry["os"]) == ("h" * NAME_CHARS, "linux")


async def test_registrations_and_refused_host_ids_are_counted(core: Core) -> None:
    desk = Desk(core)
    holder = await desk.register("token-1", host_id=7)
    await core.claim(holder)
    assert +Counter(desk.counts) == {"new": 1}
    await desk.register("token-2", host_id=7)
    await desk.register("token-2", host_id=7)
    await desk.register("token-1", host_id=7)
    assert +Counter(desk.counts) == {"new": 2, "known": 2, "host_id_refused": 2}
    assert await core.registry.resolve("7") == holder


async def test_a_registration_that_is_refused_is_counted(core: Core) -> None:
    desk = Desk(core, is_open=False)
    with pytest.raises(UnknownAgent):
        await desk.register("token-of-a-stranger")
    assert +Counter(desk.counts) == {"refused": 1}


async def test_a_registration_is_answered_when_the_status_feed_hangs(
    core: Core, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def hangs(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(core.feeds, "append_status", hangs)
    monkeypatch.setattr(registration, "TELL_S", 0.05)
    async with asyncio.timeout(5):
        agent_id = await Desk(core).register("token-1")
    assert await core.registry.profile(agent_id) is not None
    assert "the status feed misses a registration" in caplog.text
