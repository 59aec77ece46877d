"""The product, broken on purpose, one promise after the other: what judges the fault tests must notice each.

The breaks are in tests/support/altered.py. A judge that finds nothing in a broken cluster's history would find nothing in any.
"""

import asyncio
import random
from pathlib import Path

import pytest

from cluster.keys import Keys
from tests.faults.finding import Finding
from tests.faults.load import Load, Mixture
from tests.faults.scene import LIVELY, Scene
from tests.faults.test_network_lost import fall_silent, lost_network
from tests.faults.torn_agent import TornAgent
from tests.integration.core import Core
from tests.support import altered
from tests.support.agent_options import Identity, Options
from tests.support.checker import check
from tests.support.cluster_process import Section
from tests.support.control_plane import new_task
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.task_runner import Execution, quick

AGENTS = 10
SHORT: dict[str, Section] = {"agent": {"heartbeat_timeout": 4}}
pytestmark = pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)


@pytest.fixture(autouse=True)
def _named(finding: Finding, request: pytest.FixtureRequest) -> None:
    finding.about(
        "checker", str(request.node.originalname).removeprefix("test_").replace("_", " "), "a product broken on purpose"
    )
    finding.struck()


async def _load(scene: Scene, chance: random.Random, count: int = 50) -> None:
    mixture = Mixture(batches=0, cancels=0)
    await Load(scene.control_plane, hosts=AGENTS, count=count, per_s=50.0, chance=chance, mixture=mixture).run()


def _sorts(scene: Scene) -> set[str]:
    """What is wrong with the history so far."""
    return {line.partition(":")[0] for line in check(scene.recorder.events).violations}


async def _noticed(scene: Scene, sort: str, timeout_s: float = 15.0) -> None:
    await eventually(lambda: sort not in _sorts(scene) and f"noticed: {_sorts(scene)}", timeout_s, every_s=0.2)


async def test_promise_1_a_task_that_ends_twice(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random
) -> None:
    async with Scene(
        tmp_path,
        faithful_redis,
        agents=AGENTS,
        options=Options(doubles_results=True),
        nodes=1,
        command=altered.start_with("ends_twice"),
    ) as scene:
        await _load(scene, chance)
        await _noticed(scene, "ended twice")


async def test_promise_1_a_task_that_runs_twice(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random
) -> None:
    async with Scene(
        tmp_path,
        faithful_redis,
        agents=AGENTS,
        run=lambda _: Execution((), 2.0),
        nodes=1,
        command=altered.start_with("runs_again"),
    ) as scene:
        await _load(scene, chance, AGENTS)
        await eventually(
            lambda: sum(not agent.process.tasks.running for agent in scene.fleet.agents) > AGENTS // 2 and "idle"
        )
        for agent in scene.fleet.agents:
            agent.restart_process()
        await _noticed(scene, "ran again")


async def test_promise_2_an_ack_before_the_entry(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random
) -> None:
    async with Scene(
        tmp_path, faithful_redis, agents=AGENTS, run=quick(5, 0.5), command=altered.start_with("acks_early")
    ) as scene:
        await _load(scene, chance)
        faithful_redis.pause()  # what is acked from here on is nowhere
        await asyncio.sleep(0.5)
        for node in scene.cluster.nodes():
            scene.cluster.kill_node(node)
        faithful_redis.resume()
        await scene.fleet.connected()
        assert "acked and not written" in _sorts(scene)


async def test_promise_3_an_older_connection_that_stays_the_owner(faithful_redis: RedisServer, tmp_path: Path) -> None:
    async with Scene(tmp_path, faithful_redis, agents=1, command=altered.start_with("first_wins")) as scene:
        torn = [
            TornAgent(Identity(scene.cluster.url, f"torn-{n}", f"torn-{n}", 100 + n), scene.recorder)
            for n in range(AGENTS)
        ]
        for agent in torn:
            await agent.register()
            await agent.dial(scene.cluster.url)
            await agent.dial(scene.cluster.url)
        await asyncio.sleep(1.5)  # what is delivered from here on was not on its way
        for agent in torn:
            assert (await scene.control_plane.post_task(agent.agent_id, new_task())).status == 200
        await _noticed(scene, "sent to a replaced connection")


async def test_promise_4_a_living_agent_that_is_declared_dead(faithful_redis: RedisServer, tmp_path: Path) -> None:
    async with Scene(
        tmp_path,
        faithful_redis,
        agents=AGENTS,
        timings=LIVELY,
        config=SHORT,
        nodes=1,
        command=altered.start_with("never_renews"),
    ) as scene:
        await eventually(lambda: not scene.declared_dead() and "nobody was", 15.0, every_s=0.2)


async def test_promise_4_a_dead_agent_that_nobody_misses(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random
) -> None:
    command = altered.start_with("never_sweeps")
    async with lost_network(tmp_path, faithful_redis, AGENTS, chance, command) as (scene, proxy):
        with pytest.raises(AssertionError, match="agents are not offline"):
            await fall_silent(scene, proxy)


async def test_promise_5_what_stays_behind_in_redis(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random
) -> None:
    async with Scene(
        tmp_path, faithful_redis, agents=AGENTS, nodes=1, command=altered.start_with("keeps_due")
    ) as scene:
        await _load(scene, chance)
        await eventually(scene.ledger.unfinished, 20.0)
        await scene.fleet.settled()
        with pytest.raises(AssertionError, match="tasks due, not 0"):
            await eventually(scene.left_behind, 3.0, every_s=0.2)


async def test_promise_6_a_token_in_the_log(faithful_redis: RedisServer, tmp_path: Path) -> None:
    async with Scene(tmp_path, faithful_redis, agents=1, nodes=1, command=altered.start_with("tells_tokens")) as scene:
        assert scene.leaks()


async def test_promise_7_a_script_that_touches_two_slots(
    faithful_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Core(faithful_redis.url, "test:")
    await core.start()
    try:
        agent_id = await core.agent()
        await core.claim(agent_id)
        monkeypatch.setattr(Keys, "of_agent", lambda _, name, agent: f"{name}:{agent}")
        with pytest.raises(AssertionError, match=r"touches \d slots"):
            await core.claim(agent_id)
    finally:
        await core.close()
