"""F15: all agents are reset and come back, then again and again without jitter. Those that stay connected notice nothing."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import LIVELY, Scene
from tests.support.cluster_process import Section
from tests.support.eventually import eventually
from tests.support.recorder import Closed
from tests.support.redis_server import RedisServer
from tests.support.simulated_agent import SimulatedAgent, timings_with
from tests.support.slowness import slowness

BACK_S = 20.0
STAY = 20
QUIET_S = 15.0  # between heartbeats of those that are reset: thousands of them are a load of their own


def _config(timeout_s: int, status_s: int) -> dict[str, Section]:
    return {
        "agent": {
            "heartbeat_timeout": timeout_s,
            "max_takeovers": 0,
        },  # a reset that its node has not seen yet is a takeover
        "status_stream": {"interval": status_s},
    }


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
async def test_a_storm_of_reconnects_is_served_and_costs_nobody_else_a_heartbeat(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, storm_s, storm_per_s = (10_000, 30.0, 500.0) if is_long else (300, 3.0, 200.0)
    finding.about(
        "F15",
        f"all agents reset; then {storm_per_s:g}/s for {storm_s:g} s",
        f"{agents:,} agents, {STAY} that stay, 20 tasks/s",
    )
    timings = timings_with(LIVELY, backoff_s=(0.05, 0.1, 0.2))
    config = _config(40, 30) if is_long else _config(6, 5)
    scene = Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance), timings=timings, config=config)
    if is_long:
        for agent in scene.fleet.agents[STAY:]:
            agent.timings = timings_with(timings, heartbeat_s=QUIET_S)
    async with scene:
        staying, moving = scene.fleet.agents[:STAY], scene.fleet.agents[STAY:]
        closed = len(scene.recorder.of(Closed))
        limit_s = BACK_S * await slowness()
        load = Load(scene.control_plane, hosts=STAY, count=int(20 * (storm_s + 2)), per_s=20.0, chance=chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            all_back_s = await _reset_all(scene, moving, chance)
            finding.struck(len(moving))
            cuts = await _storm(moving, storm_s, storm_per_s)
            finding.struck(cuts)
        began_s = time.monotonic()
        await scene.fleet.connected(120.0)
        finding.measured(
            f"all {len(moving)} back, of their own jitter up to 3 s", all_back_s, f"10,000 in {BACK_S:g} s"
        )
        finding.measured(f"all connected after {cuts} resets more", time.monotonic() - began_s)
        theirs = {agent.agent_id for agent in staying}
        disturbed = sum(event.agent in theirs for event in scene.recorder.of(Closed)[closed:])
        finding.counted("sockets dropped of those that stay", disturbed, STAY, "0")
        assert not disturbed
        assert all_back_s <= limit_s
        await scene.judge(finding)


async def _reset_all(scene: Scene, moving: list[SimulatedAgent], chance: random.Random) -> float:
    """Each at a moment of its own, within 3 s; how long until all are back."""
    scene.recorder.fault("all agents are reset")
    began_s = time.monotonic()
    moments_s = sorted(chance.uniform(0, 3.0) for _ in moving)
    for agent, moment_s in zip(chance.sample(moving, len(moving)), moments_s, strict=True):
        await asyncio.sleep(max(0.0, began_s + moment_s - time.monotonic()))
        agent.cut()
    await asyncio.sleep(0.1)
    await eventually(scene.fleet.elsewhere, 120.0)
    return time.monotonic() - began_s


async def _storm(moving: list[SimulatedAgent], seconds: float, per_s: float) -> int:
    """Resets at this pace, of whoever is connected, in turn."""
    began_s, cuts = time.monotonic(), 0
    while (past_s := time.monotonic() - began_s) < seconds:
        for number in range(cuts, int(past_s * per_s)):
            moving[number % len(moving)].cut()  # nothing, when it is on its way
        cuts = max(cuts, int(past_s * per_s))
        await asyncio.sleep(0.02)
    return cuts
