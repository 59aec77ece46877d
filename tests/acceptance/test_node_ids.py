"""One id, one process: a second one refuses, a paused one that comes back finds its name taken; and a dead one is called dead."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.torn_agent import TornAgent
from tests.support.agent_options import Identity, Timings
from tests.support.checker import Rules, check
from tests.support.cluster_process import Section
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.ledger import Ledger
from tests.support.recorder import Recorder
from tests.support.redis_server import RedisServer
from tests.support.said import Say
from tests.support.service_process import ServiceProcess
from tests.support.simulated_fleet import Fleet

pytestmark = pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)

LATE_S = 0.5


async def _nodes(router: ServiceProcess) -> list[dict[str, Any]]:
    answer: Any = (await ControlPlane(router.url).call("GET", "/api/nodes")).json()
    nodes: list[dict[str, Any]] = answer["nodes"]
    return nodes


async def test_a_paused_process_that_comes_back_finds_its_name_taken_and_is_fenced(
    killable_redis: RedisServer, tmp_path: Path, say: Say
) -> None:
    url, recorder = killable_redis.url, Recorder()
    ledger = Ledger(recorder)
    second = ServiceProcess("node", tmp_path / "second", redis_url=url, name="one")
    async with (
        ServiceProcess("router", tmp_path / "r", redis_url=url) as router,
        ServiceProcess("node", tmp_path / "first", redis_url=url, name="one") as first,
        FeedReader(url, recorder) as reader,
        contextlib.AsyncExitStack() as ended,
    ):
        await first.wait_ready(30.0)
        second.start()
        ended.callback(second.kill)
        assert await second.ended(30.0) == 1
        assert "node id one belongs to another live process" in second.stderr.read_text()
        await router.wait_ready(30.0)
        agent = TornAgent(Identity(router.url, "torn", "torn"), recorder)
        await agent.register()
        old = await agent.dial(first.url)
        [before] = await _nodes(router)
        os.kill(first.process.pid, signal.SIGSTOP)
        try:
            second.start()
            await second.wait_ready(30.0)
            new = await agent.dial(second.url)
            control_plane = ControlPlane(router.url, recorder=recorder)
            for _ in range(5):
                assert (await control_plane.post_task(agent.agent_id, new_task())).status == 200
        finally:
            os.kill(first.process.pid, signal.SIGCONT)
        assert await first.ended(15.0) == 1
        assert "Traceback" not in first.output()
        assert (
            first.stderr.read_text().splitlines()[-1] == "agent-server: node id one was taken over by another process"
        )
        await eventually(ledger.unfinished, 15.0)
        await eventually(lambda: _otherwise(router, {"state": "ready", "agents": 1}), 10.0)
        [after] = await _nodes(router)
        assert after["boot"] != before["boot"]
        assert new.is_open
        assert not old.is_open
        await reader.caught_up()
        await second.stop()
    verdict = check(recorder.events, Rules(delivery_grace_s=LATE_S))
    say(str(verdict))
    verdict.require()


async def _otherwise(router: ServiceProcess, wanted: dict[str, Any]) -> str:
    [node] = await _nodes(router)
    return "" if wanted.items() <= node.items() else str(node)


async def test_a_node_that_died_is_called_dead_until_its_agents_are_elsewhere(
    killable_redis: RedisServer, tmp_path: Path
) -> None:
    config: dict[str, Section] = {"agent": {"heartbeat_timeout": 10}}
    url, recorder = killable_redis.url, Recorder()
    async with (
        ServiceProcess("router", tmp_path / "r", redis_url=url, config=config) as router,
        ServiceProcess("node", tmp_path / "one", redis_url=url, config=config) as one,
        ServiceProcess("node", tmp_path / "two", redis_url=url, config=config) as two,
    ):
        for service in (router, one, two):
            await service.wait_ready(30.0)
        async with Fleet(one.url, 3, recorder=recorder, timings=Timings()) as fleet:
            await fleet.connected()
            one.kill()

            async def otherwise() -> str:
                found = [(node["id"], node["state"], node["agents"]) for node in await _nodes(router)]
                return "" if found == [("two", "ready", 0), ("one", "dead", 3)] else str(found)

            await eventually(otherwise, 9.0, every_s=0.1)

            async def still_there() -> str:
                return ",".join(node["id"] for node in await _nodes(router) if node["id"] == "one")

            await eventually(still_there, 15.0, every_s=0.2)
