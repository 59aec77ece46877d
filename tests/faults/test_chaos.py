"""Whatever dies, whenever: every accepted task ends once, nothing acked is lost or doubled, one owner at a time."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults.havoc import Havoc
from tests.faults.load import Load, varied
from tests.faults.scene import SOON_BACK, Scene
from tests.support.cluster_process import Section
from tests.support.redis_server import RedisServer
from tests.support.said import Say
from tests.support.simulated_agent import timings_with

pytestmark = pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)

NODES = {"node": 1.0}
EVERYTHING = {"node": 3.0, "router": 1.0, "redis": 1.0, "stall": 1.0, "pause": 1.0, "cut": 2.0, "agent": 1.0}
SHORT_LEASES: dict[
    str, Section
] = {  # so that a dead node's leases run out within the test, and what is shown is soon put right
    "agent": {"heartbeat_timeout": 12},
    "status_stream": {"interval": 5},
}
LIVELY = timings_with(SOON_BACK, heartbeat_s=2.0)


@pytest.mark.parametrize("victims", [NODES, EVERYTHING], ids=["nodes", "everything"])
async def test_random_kills_break_no_promise(
    victims: Mapping[str, float],
    faithful_redis: RedisServer,
    tmp_path: Path,
    chance: random.Random,
    say: Say,
    is_long: bool,
) -> None:
    agents, tasks, per_s = (200, 5_000, 60.0) if is_long else (100, 1_500, 75.0)
    async with Scene(
        tmp_path, faithful_redis, agents=agents, run=varied(chance), timings=LIVELY, config=SHORT_LEASES
    ) as scene:
        load = Load(scene.control_plane, hosts=agents, count=tasks, per_s=per_s, chance=chance)
        havoc = Havoc(scene, chance, victims, pause_s=(1.0, 5.0))
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(havoc.run(is_over))
            await load.run()
            is_over.set()
        say(f"struck {dict(havoc.struck)}, {load.posted} tasks posted, {load.cancelled} cancelled")
        await scene.judge(say, calm_s=60.0)
