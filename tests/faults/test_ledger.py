"""The ledger under load, while nodes die: at no moment does it call anything wrong, and in the end all adds up."""

import asyncio
import random
from functools import partial
from pathlib import Path

import pytest

from cluster import settings
from cluster.ledger import Ledger, Report
from cluster.redis_client import Store
from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import Scene
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)

FEED = "agent_results"


async def test_it_adds_up_at_any_moment_while_nodes_die(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, kills = (200, 6) if is_long else (60, 2)
    finding.about("ledger", "node `kill -9`, the ledger checked five times a second", f"{agents} agents, 50 tasks/s")
    store = Store(settings.Redis(enabled=True, url=faithful_redis.url))
    ledger = Ledger(store, FEED)
    async with Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance)) as scene:
        load = Load(scene.control_plane, hosts=agents, count=kills * 400, per_s=50.0, chance=chance)
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            checking = group.create_task(_check_on(ledger, is_over))
            loading = group.create_task(load.run())
            for number in range(kills):
                await asyncio.sleep(2.0)
                node_id = f"n{number % 2 + 1}"
                await eventually(partial(_missing, scene, node_id), 30.0)
                scene.cluster.kill_node(node_id)
                finding.killed()
            await loading
            is_over.set()
        checks = checking.result()
        looks, books = sum(report.task_looks for report in checks), checks[-1].books
        finding.say(f"{len(checks)} checks, {looks} looks at tasks, while {kills} nodes died: {books}")
        wrong = [report for report in checks if not report.is_right]
        assert not wrong, wrong
        await scene.judge(finding)
        last = await ledger.check(is_deep=True)
        assert last.is_right, last
        assert (last.books.accepted, last.books.open, last.books.waiting) == (scene.ledger.accepted(), 0, 0)
        finding.say(f"in the end {last.books}")
    await store.close()


async def _check_on(ledger: Ledger, is_over: asyncio.Event) -> list[Report]:
    checks: list[Report] = []
    while not is_over.is_set():
        checks.append(await ledger.check(is_deep=len(checks) % 2 == 0))
        await asyncio.sleep(0.2)
    return checks


def _missing(scene: Scene, node_id: str) -> str:
    return "" if node_id in scene.cluster.nodes() else f"{node_id} is not there"
