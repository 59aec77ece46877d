"""F20: much waits for agents that are away. When they come, each gets it all, in order, and the nodes stay small."""

import asyncio
import time
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.scene import Scene
from tests.support.checker import Rules
from tests.support.control_plane import new_task
from tests.support.eventually import eventually
from tests.support.recorder import Delivered
from tests.support.redis_server import RedisServer
from tests.support.task_runner import quick

ALL_DELIVERED_S = 60.0
BATCH = 100
NODE_MIB = 64.0  # that a node may grow by, whatever waits


async def test_what_waits_for_absent_agents_is_delivered_in_order_and_nodes_stay_small(
    faithful_redis: RedisServer, tmp_path: Path, finding: Finding, is_long: bool
) -> None:
    agents, each = (100, 500) if is_long else (20, 200)
    finding.about("F20", f"{each} tasks for each of {agents} agents that are offline", "then all of them connect")
    async with Scene(tmp_path, faithful_redis, agents=agents, run=quick(0, 0.0)) as scene:
        for agent in scene.fleet.agents:
            await agent.stop()
        async with asyncio.TaskGroup() as group:
            for host in range(1, agents + 1):
                group.create_task(_post(scene, host, each))
        before_mib, began_s = scene.cluster.nodes_mib(), time.monotonic()
        for agent in scene.fleet.agents:
            agent.start()
        most_mib = before_mib
        while (delivered := len(scene.recorder.of(Delivered))) < agents * each and time.monotonic() - began_s < 120.0:
            most_mib = max(most_mib, scene.cluster.nodes_mib())
            await asyncio.sleep(0.25)
        took_s = time.monotonic() - began_s
        finding.struck(agents)
        finding.measured(f"all {agents * each:,} delivered after", took_s, f"<= {ALL_DELIVERED_S:g} s")
        finding.measured(
            "memory of the two nodes", f"+{most_mib - before_mib:.1f} MiB", f"bounded: <= {2 * NODE_MIB:g} MiB"
        )
        assert delivered >= agents * each
        assert took_s <= ALL_DELIVERED_S
        assert most_mib - before_mib <= 2 * NODE_MIB
        await eventually(scene.ledger.unfinished, 300.0, every_s=1.0)
        await scene.judge(finding, Rules(is_ordered=True), calm_s=120.0)


async def _post(scene: Scene, host: int, count: int) -> None:
    for _ in range(0, count, BATCH):
        answer = await scene.control_plane.post_batch(host, [new_task(host) for _ in range(BATCH)])
        assert answer.status == 200, answer
