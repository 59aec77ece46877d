"""F6: Redis dies and is back after 5 s with its append-only file. Calls are refused in time, nobody is disconnected, nothing is lost."""

import asyncio
import random
import time
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import Scene
from tests.support.control_plane import as_bytes, new_task
from tests.support.http_client import Response
from tests.support.recorder import Closed, Opened
from tests.support.redis_server import RedisServer
from tests.support.slowness import slowness

AWAY_S = 5.0
REFUSED_WITHIN_S = 3.0
SUCCESS_AFTER_S = 2.0


async def test_a_killed_redis_costs_503_and_nothing_else(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, kills, per_s = (200, 5, 100.0) if is_long else (60, 1, 50.0)
    finding.about("F6", "Redis `kill -9`, back after 5 s with its AOF", f"{agents} agents, {per_s:g} tasks/s")
    async with Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance)) as scene:
        load = Load(scene.control_plane, hosts=agents, count=int(kills * 10 * per_s), per_s=per_s, chance=chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for _ in range(kills):
                await asyncio.sleep(2.0)
                await _kill_and_return(scene, finding)
        dropped = scene.recorder.of(Closed)
        finding.counted("sockets dropped", len(dropped), len(scene.recorder.of(Opened)), "0")
        assert not dropped
        await scene.judge(finding)


async def _kill_and_return(scene: Scene, finding: Finding) -> None:
    limit_s = SUCCESS_AFTER_S * await slowness()
    scene.recorder.fault("kill -9 of Redis")
    scene.redis.kill()
    away_until_s, refused_s = time.monotonic() + AWAY_S, []
    while time.monotonic() < away_until_s:
        refused_s.append(await _time_to_refuse(scene))
    scene.redis.start()
    back_s = time.monotonic()
    while (await _post(scene)).status != 200:
        assert time.monotonic() - back_s <= limit_s, "no POST was taken"
    took_s = time.monotonic() - back_s
    finding.killed()
    for seconds in refused_s:
        finding.measured("a POST 503 with Retry-After after", seconds, f"<= {REFUSED_WITHIN_S:g} s")
    finding.measured("first POST taken after Redis", took_s, f"<= {SUCCESS_AFTER_S:g} s")
    assert took_s <= limit_s


async def _time_to_refuse(scene: Scene) -> float:
    """A POST is answered with 503 and when to come back; how long that takes."""
    began_s = time.monotonic()
    answer = await _post(scene)
    took_s = time.monotonic() - began_s
    assert answer.status == 503, answer
    assert int(answer.headers["retry-after"]) > 0
    assert took_s <= REFUSED_WITHIN_S
    await asyncio.sleep(0.1)
    return took_s


async def _post(scene: Scene) -> Response:
    """One attempt, never repeated."""
    host = len(scene.fleet.agents)
    task = as_bytes(new_task(host))
    return await scene.control_plane.call("POST", f"/api/agents/{host}/tasks/", task, target=str(host), tasks=[task])
