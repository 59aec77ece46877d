"""F4: the router dies while it takes tasks, and the control plane repeats them: each task runs once, none is lost.

Redis stands still when the router dies, so that it takes the tasks afterwards, for a caller that heard nothing: the hardest moment.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from redis.asyncio import Redis

from tests.faults.finding import Finding
from tests.faults.scene import Scene
from tests.support.control_plane import new_task
from tests.support.eventually import eventually
from tests.support.http_client import Response
from tests.support.redis_server import RedisServer
from tests.support.slowness import slowness
from tests.support.task_runner import quick

BACK_S = 2.0
AT_ONCE = 40  # POSTs under way when it dies


async def test_a_router_killed_while_it_takes_tasks_loses_and_doubles_none(
    faithful_redis: RedisServer, tmp_path: Path, finding: Finding, is_long: bool
) -> None:
    agents, kills = (100, 6) if is_long else (20, 2)
    finding.about("F4", "router `kill -9` mid-POST, the client repeats", f"{agents} agents, {AT_ONCE} POSTs under way")
    async with Scene(tmp_path, faithful_redis, agents=agents, run=quick()) as scene:
        limit_s = BACK_S * await slowness()
        back_s = [await _kill_mid_post(scene, finding) for _ in range(kills)]
        finding.measured(
            "back after the first kill", back_s[0], f"<= {BACK_S:g} s; here {limit_s:.1f} s, by the machine's pace"
        )
        assert (
            back_s[0] <= limit_s
        )  # later ones wait for the supervisor, which is in no hurry with who dies again and again
        await scene.judge(finding)


async def _kill_mid_post(scene: Scene, finding: Finding) -> float:
    """How long after the kill the first POST was answered."""
    ids = [
        agent.agent_id for agent in scene.fleet.agents
    ]  # a host id would wait for Redis before its task is on its way there
    await scene.control_plane.post_task(ids[0], new_task())  # so does a router's first
    before = await _tasks_in(scene.redis)
    scene.redis.pause()
    async with asyncio.TaskGroup() as group:
        posts = [
            group.create_task(scene.control_plane.post_task(ids[number % len(ids)], new_task()))
            for number in range(AT_ONCE)
        ]
        await asyncio.sleep(0.3)  # by now some are with Redis; the others are in the router, or on their way to it
        scene.recorder.fault("kill -9 of the router")
        scene.cluster.kill_router()
        killed_s = time.monotonic()
        scene.redis.resume()
        taken = await _tasks_in(scene.redis) - before
        await eventually(lambda: _all_wait(posts), 30.0, every_s=0.005)
        back_s = time.monotonic() - killed_s
    assert all(post.result().status == 200 for post in posts)
    finding.killed()
    finding.counted("taken for a dead router", taken, AT_ONCE)
    assert taken, "no POST was on its way to Redis"
    return back_s


def _all_wait(posts: Sequence[asyncio.Task[Response]]) -> bool:
    return not any(post.done() for post in posts)


async def _tasks_in(redis: RedisServer) -> int:
    async with Redis.from_url(redis.url) as client:
        return sum([1 async for _ in client.scan_iter("agsrv:{s0}:task:*", count=10_000)])
