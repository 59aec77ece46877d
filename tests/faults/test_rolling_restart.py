"""F16: all nodes and the router are restarted under load, one by one. No POST fails, no task is lost, and a stalled reader holds nobody up."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import SOON_BACK, Scene
from tests.support.control_plane import new_task
from tests.support.eventually import eventually
from tests.support.recorder import Answered, Closed, Opened, Posted
from tests.support.redis_server import RedisServer

GAP_S = 3.0
EXIT_S = 20.0
BACKOFF_S = SOON_BACK.backoff_s[0]


async def test_a_rolling_restart_fails_no_post_and_loses_no_task(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, rounds, per_s = (200, 3, 80.0) if is_long else (60, 1, 50.0)
    finding.about(
        "F16", "rolling restart of nodes and router, one agent reads nothing", f"{agents} agents, {per_s:g} tasks/s"
    )
    async with Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance)) as scene:
        for _ in range(rounds):
            since = len(scene.recorder.events)
            took_s = await _restart_under_load(scene, chance, per_s)
            finding.struck()
            finding.measured("restart of all processes", took_s, f"each exits <= {EXIT_S:g} s")
            events = scene.recorder.events[since:]
            calls = {event.call for event in events if isinstance(event, Posted) and event.tasks}
            answers = Counter(event.status for event in events if isinstance(event, Answered) and event.call in calls)
            finding.counted("POSTs not answered 200", answers.total() - answers[200], answers.total(), "0")
            assert answers.keys() == {200}
            await scene.fleet.connected()
        gaps_s = _gaps_s(scene)
        p99_s = gaps_s[int(0.99 * (len(gaps_s) - 1))] - BACKOFF_S
        finding.measured("gap of an agent, beyond its own wait, p99", p99_s, f"<= {GAP_S:g} s")
        assert p99_s <= GAP_S
        assert not [line for line in scene.cluster.output(100_000).splitlines() if "killed" in line]
        await scene.judge(finding)


async def _restart_under_load(scene: Scene, chance: random.Random, per_s: float) -> float:
    before = _processes(scene)
    *_, stalled = scene.fleet.agents
    stalled.stop_reading()
    host = stalled.identity.host_id
    tasks = [new_task(host, command="x" * 4_000) for _ in range(500)]  # more than sockets hold
    for first in range(0, len(tasks), 100):
        assert (await scene.control_plane.post_batch(host, tasks[first : first + 100])).status == 200
    began_s = time.monotonic()
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_post_until(is_over, scene, chance, per_s))
        answer = await scene.control_plane.call("POST", "/api/self/control/", b'{"action": "restart"}')
        assert answer.status == 200, answer
        await eventually(lambda: _unchanged(scene, before), 2 * EXIT_S * len(before), every_s=0.1)
        await eventually(scene.cluster.not_ready, 30.0, every_s=0.1)
        is_over.set()
    stalled.start_reading()
    return time.monotonic() - began_s


async def _post_until(is_over: asyncio.Event, scene: Scene, chance: random.Random, per_s: float) -> None:
    while not is_over.is_set():
        await Load(
            scene.control_plane, hosts=len(scene.fleet.agents) - 1, count=int(per_s / 2), per_s=per_s, chance=chance
        ).run()


def _processes(scene: Scene) -> dict[str, int]:
    return {**scene.cluster.nodes(), **scene.cluster.routers()}


def _unchanged(scene: Scene, before: Mapping[str, int]) -> list[str]:
    now = _processes(scene)
    return [name for name, pid in before.items() if now.get(name) in {None, pid}]


def _gaps_s(scene: Scene) -> list[float]:
    """From each end of a connection to the agent's next, of agents that read; sorted."""
    *_, stalled = scene.fleet.agents
    closed_s: dict[str, float] = {}
    gaps_s = []
    for event in scene.recorder.events:
        if isinstance(event, Closed) and event.agent != stalled.agent_id:
            closed_s[event.agent] = event.at_s
        elif isinstance(event, Opened) and event.agent in closed_s:
            gaps_s.append(event.at_s - closed_s.pop(event.agent))
    return sorted(gaps_s)
