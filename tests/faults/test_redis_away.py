"""F7, the long part: Redis is away for longer than sockets are kept. Agents' outboxes take over, and what nodes hold is written on return."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from cluster import close_codes
from node.presence import AWAY_S
from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import LIVELY, SHORT_LEASES, Scene
from tests.support import altered
from tests.support.cluster_process import START
from tests.support.eventually import eventually
from tests.support.recorder import Closed
from tests.support.redis_server import RedisServer


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)  # how Redis does its work has no part in it
async def test_sockets_are_closed_after_a_while_and_all_that_was_said_is_written(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, after_s, away_s, per_s = (200, AWAY_S, 300.0, 60.0) if is_long else (40, altered.AWAY_S, 10.0, 50.0)
    finding.about(
        "F7", f"Redis away for {away_s:g} s, sockets are kept for {after_s:g} s", f"{agents} agents, {per_s:g} tasks/s"
    )
    command = START if is_long else altered.start_with("away_soon")
    async with Scene(
        tmp_path,
        faithful_redis,
        agents=agents,
        run=varied(chance),
        timings=LIVELY,
        config=SHORT_LEASES,
        command=command,
    ) as scene:
        load = Load(
            scene.control_plane, hosts=agents, count=int(per_s * 4), per_s=per_s, chance=chance, give_up_s=away_s + 60
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await asyncio.sleep(2.0)
            scene.recorder.fault(f"Redis is away for {away_s} s")
            scene.redis.pause()
            began_s = time.monotonic()
            finding.struck()
            await eventually(lambda: sum(agent.is_connected for agent in scene.fleet.agents), after_s + 30.0)
            closed = scene.recorder.of(Closed)
            first_s, last_s = closed[0].at_s - began_s, time.monotonic() - began_s
            await asyncio.sleep(max(0.0, away_s - last_s))
            scene.redis.resume()
        finding.measured("first socket closed", first_s, f">= {after_s:g} s")
        finding.measured("last socket closed", last_s)
        assert {event.code for event in closed} == {close_codes.RESTARTING}
        assert first_s >= after_s - 1.5  # it was heard up to a renewal before
        await scene.judge(finding, calm_s=120.0)
