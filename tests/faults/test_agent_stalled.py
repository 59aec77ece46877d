"""F13: an agent stands still while tasks flood it. It costs its node little, the others nothing, and it is offline in time.

Beside it stands the same flood for the same agent while it reads: what the flood costs is not the stall's.
"""

import asyncio
import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.faults.finding import Finding
from tests.faults.load import Load, Mixture
from tests.faults.scene import SOON_BACK, Scene
from tests.support.agent_options import Options
from tests.support.control_plane import new_task
from tests.support.eventually import eventually
from tests.support.history import History
from tests.support.outlook import offline_after_s
from tests.support.recorder import Answered, AnyEvent, Delivered, Entry, Posted
from tests.support.redis_server import RedisServer
from tests.support.simulated_agent import SimulatedAgent, timings_with
from tests.support.simulated_fleet import SECRET
from tests.support.slowness import slowness
from tests.support.task_runner import quick
from tests.support.websocket_client import SocketOptions

CUT_S = 8.0  # of a stall, then the socket is closed
OFFLINE_S = 2.0  # beyond it
MEMORY_MIB = 1.5
WORSE = 1.1
NOISE_S = 0.02  # by which two quiet spells of a shared machine differ
TRIES = 3  # a shared machine and an allocator only ever add: the least of some is what a stall costs
FLOOD = 20  # batches of 100
TASK_CHARS = 4_000


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)  # how Redis does its work has no part in it
async def test_an_agent_that_stands_still_costs_others_nothing_and_is_offline_in_time(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, rounds, per_s = (200, 2, 60.0) if is_long else (40, 1, 40.0)
    megabytes = FLOOD * 100 * TASK_CHARS / 1e6
    finding.about(
        "F13", f"agent `SIGSTOP`, {megabytes:g} MB of tasks for it", f"{agents} agents, {per_s:g} tasks/s, 1 node"
    )
    async with Scene(tmp_path, faithful_redis, agents=agents, nodes=1, run=quick(0, 0.0)) as scene:
        victim = _victim(scene)
        scene.fleet.agents.append(victim)
        await victim.connected()
        for _ in range(rounds):
            await _judge_stall(scene, victim, finding, chance, per_s)
        await scene.judge(finding)


async def _judge_stall(
    scene: Scene, victim: SimulatedAgent, finding: Finding, chance: random.Random, per_s: float
) -> None:
    grown_mib, slower_s = await _stall(scene, victim, finding, chance, per_s)
    for _ in range(TRIES - 1):
        if grown_mib <= MEMORY_MIB and slower_s <= 0:
            break
        again_mib, again_s = await _stall(scene, victim, finding, chance, per_s)
        grown_mib, slower_s = min(grown_mib, again_mib), min(slower_s, again_s)
    assert grown_mib <= MEMORY_MIB
    assert slower_s <= 0


def _victim(scene: Scene) -> SimulatedAgent:
    """Small buffers on its side, so that the flood stays with the node and not in the kernel."""
    number = len(scene.fleet.agents) + 1
    victim = SimulatedAgent(
        scene.cluster.url, token=f"{SECRET}victim", name="victim", host_id=number, recorder=scene.recorder,
        timings=timings_with(SOON_BACK), run=quick(0, 0.0), options=Options(socket=SocketOptions(receive_buffer_bytes=4096)),
    )  # fmt: skip
    victim.start()
    return victim


async def _stall(
    scene: Scene, victim: SimulatedAgent, finding: Finding, chance: random.Random, per_s: float
) -> tuple[float, float]:
    """By how much the node grew, in MiB, and by how much others were slower than they may be, in s."""
    limit = WORSE, NOISE_S * await slowness()
    before_mib = scene.cluster.nodes_mib()
    alive_s, alive_mib, _ = await _flood_under_load(scene, victim, chance, per_s)
    await eventually(scene.ledger.unfinished, 60.0)
    base_mib = max(before_mib, scene.cluster.nodes_mib())
    scene.recorder.fault("SIGSTOP of the victim, and a flood")
    victim.freeze()
    frozen_s = time.monotonic()
    stalled_s, stalled_mib, flooded_s = await _flood_under_load(scene, victim, chance, per_s)
    finding.struck()
    events, agent = scene.recorder.events, victim.agent_id
    await eventually(lambda: offline_after_s(events, agent, frozen_s) is None and "it is not offline", 30.0)
    offline_s = _offline_at_s(scene, agent) - flooded_s
    victim.thaw()
    await victim.connected()
    finding.measured("the node grew by, while the agent reads", alive_mib - before_mib, unit="MiB")
    finding.measured(
        "the node grew by, while it stands still", stalled_mib - base_mib, f"<= {MEMORY_MIB} MiB", unit="MiB"
    )
    finding.measured("offline after the flood", offline_s, f"<= {CUT_S + OFFLINE_S:g} s")
    finding.measured("others' p99 from POST to delivery, while it reads", alive_s * 1e3, unit="ms")
    finding.measured("the same, while it stands still", stalled_s * 1e3, "at most 10 % worse", unit="ms")
    assert offline_s <= CUT_S + OFFLINE_S
    return stalled_mib - base_mib, stalled_s - limit[0] * alive_s - limit[1]


async def _flood_under_load(
    scene: Scene, victim: SimulatedAgent, chance: random.Random, per_s: float
) -> tuple[float, float, float]:
    """The others' p99, what the node weighed at the most, and when the last of the flood was accepted."""
    others, since, most_mib = len(scene.fleet.agents) - 1, len(scene.recorder.events), 0.0
    mixture = Mixture(batches=0, cancels=0)
    load = Load(scene.control_plane, hosts=others, count=int(4 * per_s), per_s=per_s, chance=chance, mixture=mixture)
    async with asyncio.TaskGroup() as group:
        posting = group.create_task(load.run())
        flooding = group.create_task(_flood(scene, victim))
        while not posting.done() or not flooding.done():
            most_mib = max(most_mib, scene.cluster.nodes_mib())
            await asyncio.sleep(0.05)
    await eventually(lambda: _undelivered(scene, since, victim), 20.0)
    return _p99_s(_of_others(scene, since, victim)), most_mib, flooding.result()


def _offline_at_s(scene: Scene, agent: str) -> float:
    told = (event for event in scene.recorder.of(Entry) if event.feed == "status" and event.fields["agent_id"] == agent)
    return max(event.at_s for event in told if event.fields["status"] == "offline")


def _of_others(scene: Scene, since: int, victim: SimulatedAgent) -> list[AnyEvent]:
    return [event for event in scene.recorder.events[since:] if not _is_of(event, victim)]


def _undelivered(scene: Scene, since: int, victim: SimulatedAgent) -> int:
    tasks = History(_of_others(scene, since, victim)).tasks.values()
    return sum(not task.deliveries for task in tasks if task.posted)


async def _flood(scene: Scene, victim: SimulatedAgent) -> float:
    """When it was all accepted."""
    host = victim.identity.host_id
    for _ in range(FLOOD):
        tasks = [new_task(host, command="x" * TASK_CHARS) for _ in range(100)]
        assert (await scene.control_plane.post_batch(host, tasks)).status == 200
        await asyncio.sleep(0.1)
    return time.monotonic()


def _is_of(event: AnyEvent, agent: SimulatedAgent) -> bool:
    target = str(agent.identity.host_id)
    return (isinstance(event, Delivered) and event.agent == agent.agent_id) or (
        isinstance(event, Posted) and event.target == target
    )


def _p99_s(events: Iterable[AnyEvent]) -> float:
    """From the POST of a task to its delivery."""
    tasks = History(event for event in events if isinstance(event, Posted | Answered | Delivered)).tasks.values()
    took_s = sorted(
        task.deliveries[0].at_s - task.posted[0][0].at_s for task in tasks if task.deliveries and task.posted
    )
    return took_s[int(0.99 * (len(took_s) - 1))]
