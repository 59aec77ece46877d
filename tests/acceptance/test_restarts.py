"""Restarts of everything: all at once with the embedded Redis, which keeps it all, and one by one, which nobody notices."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.embedded import redis_url
from tests.support.agent_options import Timings
from tests.support.checker import check
from tests.support.cluster_process import ClusterProcess
from tests.support.control_plane import ControlPlane, as_bytes, new_task
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.ledger import Ledger
from tests.support.outlook import connection_gaps_s
from tests.support.recorder import Closed, Recorder, Registered
from tests.support.required_redis import require_redis
from tests.support.said import Say
from tests.support.simulated_agent import SimulatedAgent
from tests.support.simulated_fleet import Fleet

AGENTS = 20
SOON_BACK = Timings().returning(0.05)
RESTARTING = 1012
EVERY_S = 0.02  # a POST, while everything is restarted


@pytest.mark.parametrize("how", ["SIGTERM", "kill -9"])
async def test_after_a_restart_of_everything_agents_keep_their_ids_and_get_what_waited(
    tmp_path: Path, how: str, say: Say
) -> None:
    require_redis("6.2")
    recorder = Recorder()
    ledger = Ledger(recorder)
    cluster = ClusterProcess(tmp_path)
    async with cluster:
        await cluster.wait_ready(30.0)
        agent = SimulatedAgent(cluster.url, token="kept", host_id=7, recorder=recorder, timings=SOON_BACK)
        agent.start()
        await agent.connected()
        await agent.stop()
        agent_id = recorder.of(Registered)[0].agent
        control_plane = ControlPlane(cluster.url, recorder=recorder)
        await eventually(lambda: _is_online_still(control_plane, agent_id))
        for _ in range(10):
            answer: Any = (await control_plane.post_task(7, new_task(7))).json()
            assert answer["status"] == "pending", answer
        began_s = time.monotonic()
        await (cluster.stop() if how == "SIGTERM" else cluster.kill_and_wait())
        stopped_s = time.monotonic()
        cluster.start()
        await cluster.wait_ready(30.0)
        say(f"{how}: ended after {stopped_s - began_s:.2f} s, serving again {time.monotonic() - stopped_s:.1f} s later")
        async with FeedReader(redis_url(cluster), recorder) as reader:
            agent.start()
            await agent.connected()
            await eventually(lambda: ledger.unfinished() or (agent.unacked and "messages are not acked"), 20.0)
            await reader.caught_up()
            await agent.stop()
    assert {registered.agent for registered in recorder.of(Registered)} == {agent_id}
    verdict = check(recorder.events)
    say(str(verdict))
    verdict.require()
    assert verdict.counts["of them ended"] == 10


async def _is_online_still(control_plane: ControlPlane, agent_id: str) -> str:
    answer: Any = (await control_plane.agent(agent_id)).json()
    return "" if answer["status"] == "inactive" else f"the agent is {answer['status']}"


async def test_a_rolling_restart_replaces_every_process_and_fails_no_post(cluster: ClusterProcess, say: Say) -> None:
    recorder = Recorder()
    control_plane = ControlPlane(cluster.url, recorder=recorder)
    ledger = Ledger(recorder)
    async with (
        FeedReader(redis_url(cluster), recorder) as reader,
        Fleet(cluster.url, AGENTS, recorder=recorder, timings=SOON_BACK) as fleet,
    ):
        await fleet.connected()
        before = _processes(cluster)
        is_over = asyncio.Event()
        posting = asyncio.create_task(_post_on(control_plane, is_over), name="posts")
        began_s = time.monotonic()
        answer = await control_plane.call("POST", "/api/self/control/", b'{"action": "restart"}')
        assert answer.status == 200, answer
        await eventually(lambda: _unchanged(cluster, before), 60.0, every_s=0.2)
        await cluster.wait_ready(30.0)
        took_s = time.monotonic() - began_s
        is_over.set()
        statuses = await posting
        failed = len(statuses) - statuses.count(200)
        say(f"rolling restart of {len(before)} processes in {took_s:.1f} s: {failed} of {len(statuses)} POSTs failed")
        assert not failed, Counter(statuses)
        await fleet.connected()
        # A task that was marked for a socket which closed meanwhile goes again after the grace, 40 s.
        await eventually(ledger.unfinished, 75.0)
        await fleet.settled()
        await reader.caught_up()
    gaps_s = connection_gaps_s(recorder.events)
    say(f"{len(gaps_s)} connections moved; the longest gap of an agent {max(gaps_s):.2f} s")
    assert {closed.code for closed in recorder.of(Closed) if not closed.reason} == {RESTARTING}
    verdict = check(recorder.events)
    say(str(verdict))
    verdict.require()


def _processes(cluster: ClusterProcess) -> dict[str, int]:
    return {**cluster.nodes(), **cluster.routers()}


def _unchanged(cluster: ClusterProcess, before: Mapping[str, int]) -> list[str]:
    now = _processes(cluster)
    return [name for name, pid in before.items() if now.get(name) in {None, pid}]


async def _post_on(control_plane: ControlPlane, is_over: asyncio.Event) -> list[int]:
    """One attempt a task, at an even pace, whatever becomes of the others; the statuses, 0 where no answer came."""
    async with asyncio.TaskGroup() as group:
        posts: list[asyncio.Task[int]] = []
        while not is_over.is_set():
            posts.append(group.create_task(_post_once(control_plane, 1 + len(posts) % AGENTS)))
            await asyncio.sleep(EVERY_S)
    return [post.result() for post in posts]


async def _post_once(control_plane: ControlPlane, host: int) -> int:
    task = as_bytes(new_task(host))
    path = f"/api/agents/{host}/tasks/"
    return (await control_plane.call("POST", path, task, target=str(host), tasks=[task])).status
