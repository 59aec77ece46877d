"""A cluster that lives for hours while everything around it dies, round after round: no promise is broken, and nothing grows.

pytest --long tests/faults -k soak --soak-hours 8
"""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.faults.finding import Finding
from tests.faults.havoc import Havoc
from tests.faults.load import Load, varied
from tests.faults.scene import LIVELY, SHORT_LEASES, Scene
from tests.support.redis_server import RedisServer

AGENTS = 100
PER_S = 50.0
ROUND_S = 120.0
BLOWS = {"router": 1.0, "redis": 1.0, "stall": 1.0, "pause": 2.0, "cut": 4.0, "agent": 2.0}  # nodes live, to be weighed
GROWN = 1.5  # times what a node weighed after the first round
FEEDS = {"result_stream": {"keep": 1_000}, "log_stream": {"max_len": 20_000}}


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
async def test_soak_breaks_no_promise_and_nothing_grows(
    faithful_redis: RedisServer,
    tmp_path: Path,
    chance: random.Random,
    finding: Finding,
    is_long: bool,
    request: pytest.FixtureRequest,
) -> None:
    if not is_long:
        pytest.skip("only in the long form")
    until_s = time.monotonic() + 3600 * float(request.config.getoption("--soak-hours"))
    finding.about(
        "soak", "any process but nodes, connection or pause, struck at random", f"{AGENTS} agents, {PER_S:g} tasks/s"
    )
    config = {**SHORT_LEASES, **FEEDS}
    async with Scene(
        tmp_path, faithful_redis, agents=AGENTS, run=varied(chance), timings=LIVELY, config=config
    ) as scene:
        weights_mib, rounds = [], 0
        while rounds < 2 or time.monotonic() < until_s:
            await _round(scene, chance, finding, min(ROUND_S, max(10.0, until_s - time.monotonic())), 1 + 100 * rounds)
            scene.forget()
            rounds += 1
            weights_mib.append(scene.cluster.nodes_mib())
            finding.say(f"round {rounds}: nodes weigh {weights_mib[-1]:.0f} MiB")
        finding.measured("rounds", str(rounds))
        finding.measured(
            "nodes weigh after the first and the last round", f"{weights_mib[0]:.0f}, {weights_mib[-1]:.0f} MiB"
        )
        assert weights_mib[-1] <= GROWN * weights_mib[0]


async def _round(scene: Scene, chance: random.Random, finding: Finding, seconds: float, first_execution: int) -> None:
    load = Load(
        scene.control_plane, hosts=AGENTS, count=int(PER_S * seconds), per_s=PER_S, chance=chance,
        first_execution=first_execution,
    )  # fmt: skip
    havoc = Havoc(scene, chance, BLOWS, pause_s=(1.0, 8.0))
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(havoc.run(is_over))
        await load.run()
        is_over.set()
    havoc.tell(finding)
    await scene.judge(finding, calm_s=120.0)
