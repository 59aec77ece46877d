"""Whatever dies, whenever: every accepted task ends once, nothing acked is lost or doubled, one owner at a time."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults.finding import Finding
from tests.faults.havoc import Havoc
from tests.faults.load import Load, varied
from tests.faults.scene import LIVELY, SHORT_LEASES, Scene
from tests.support.redis_server import RedisServer

NODES = {"node": 1.0}
EVERYTHING = {"node": 3.0, "router": 1.0, "redis": 1.0, "stall": 1.0, "pause": 1.0, "cut": 2.0, "agent": 1.0}

# Where a node dies every other second, agents are away half of the time, and catch up with less.
LONG = {True: (200, 30_000, 150.0), False: (200, 54_000, 300.0)}


@pytest.mark.parametrize("victims", [NODES, EVERYTHING], ids=["nodes", "everything"])
async def test_random_kills_break_no_promise(
    victims: Mapping[str, float],
    faithful_redis: RedisServer,
    tmp_path: Path,
    chance: random.Random,
    finding: Finding,
    is_long: bool,
) -> None:
    agents, tasks, per_s = LONG[victims is NODES] if is_long else (60, 800, 75.0)
    what = "nodes" if victims is NODES else "any process, connection or pause"
    finding.about("chaos", f"{what}, struck at random", f"{agents} agents, {per_s:g} tasks/s, 5 % cancelled")
    nodes = 3 if is_long else 2
    async with Scene(
        tmp_path, faithful_redis, agents=agents, nodes=nodes, run=varied(chance), timings=LIVELY, config=SHORT_LEASES
    ) as scene:
        load = Load(scene.control_plane, hosts=agents, count=tasks, per_s=per_s, chance=chance)
        havoc = Havoc(scene, chance, victims, pause_s=(0.5, 4.0))
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(havoc.run(is_over))
            await load.run()
            is_over.set()
        havoc.tell(finding)
        finding.measured("struck", ", ".join(f"{count} x {kind}" for kind, count in havoc.struck.items()))
        await scene.judge(finding, calm_s=60.0)
