"""What `agent-server start` keeps running: who dies comes back, and nobody outlives the supervisor."""

import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.embedded import redis_url
from tests.support.agent_options import Timings
from tests.support.checker import check
from tests.support.cluster_process import ClusterProcess
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.recorder import Closed, Opened, Recorder
from tests.support.required_redis import require_redis
from tests.support.said import Say
from tests.support.simulated_fleet import Fleet
from tests.support.spawned import is_running, signal_child

AGENTS = 20
AT_ONCE = Timings().returning(0.01)  # agents are back before a node can be


class Hosts:
    """Agents on a cluster, their control plane, and the feeds."""

    def __init__(self, cluster: ClusterProcess, count: int = AGENTS) -> None:
        self.recorder = Recorder()
        self.fleet = Fleet(cluster.url, count, recorder=self.recorder, timings=AT_ONCE)
        self.control_plane = ControlPlane(cluster.url, recorder=self.recorder)
        self.reader = FeedReader(redis_url(cluster), self.recorder)

    async def per_node(self) -> Counter[str]:
        """How many active agents each node holds, as the control plane is told."""
        answer: Any = (await self.control_plane.agents("status=active")).json()
        return Counter(agent["node"] for agent in answer["agents"])

    async def shown_otherwise(self, agent_id: str, status: str) -> str:
        """What the control plane is told of an agent, when it is not this status."""
        answer: Any = (await self.control_plane.agent(agent_id)).json()
        return "" if answer["status"] == status else f"{agent_id} is {answer['status']}"

    async def shuns(self, cluster: ClusterProcess, node: str) -> str:
        """A newcomer goes to the least loaded node; which one it is, when it is not this one."""
        async with Fleet(cluster.url, 1, recorder=self.recorder, prefix="newcomer", first_host_id=100) as newcomer:
            await newcomer.connected()
            answer: Any = (await self.control_plane.agent(100)).json()
        return "" if answer["node"] == node else f"a newcomer goes to {answer['node']}"

    async def work(self) -> None:
        """A task for each of them, to its end. Raises: AssertionError."""
        for host in range(1, len(self.fleet.agents) + 1):
            answer = await self.control_plane.post_task(host, new_task(host))
            assert answer.status == 200, answer
        await self.fleet.settled(30.0)
        await self.reader.caught_up()


@pytest.fixture
async def hosts(cluster: ClusterProcess) -> AsyncIterator[Hosts]:
    hosts = Hosts(cluster)
    async with hosts.reader, hosts.fleet:
        await hosts.fleet.connected()
        yield hosts


async def test_nothing_outlives_a_killed_supervisor_and_its_ports_are_free_at_once(tmp_path: Path, say: Say) -> None:
    require_redis("6.2")
    async with ClusterProcess(tmp_path) as first:
        await first.wait_ready(30.0)
        children = first.children()
        began_s = time.monotonic()
        await first.kill_and_wait()
        gone_s = time.monotonic() - began_s
    assert len(children) == 4
    async with ClusterProcess(tmp_path, port=first.port) as second:
        await second.wait_ready(30.0)
        say(f"kill -9 of the supervisor: {len(children)} children gone after {gone_s:.2f} s, served again after "
            f"{time.monotonic() - began_s:.1f} s")  # fmt: skip


async def test_a_killed_node_comes_back_and_its_agents_go_on_at_the_other(
    cluster: ClusterProcess, hosts: Hosts, say: Say
) -> None:
    [(victim, held), *_] = (await hosts.per_node()).most_common()
    [other] = cluster.nodes().keys() - {victim}
    before = cluster.kill_node(victim)
    killed_s = time.monotonic()
    await eventually(lambda: len(hosts.recorder.of(Opened)) < AGENTS + held and "agents are away", 20.0)
    moved_s = time.monotonic() - killed_s
    assert await hosts.per_node() == {other: AGENTS}
    await hosts.work()
    await eventually(lambda: cluster.nodes().get(victim) in {None, before} and f"{victim} is not started again", 20.0)
    await eventually(lambda: hosts.shuns(cluster, victim), 20.0)
    back_s = time.monotonic() - killed_s
    say(f"kill -9 of a node: {held} agents moved within {moved_s:.2f} s, others come to it again after {back_s:.1f} s")
    verdict = check(hosts.recorder.events)
    say(str(verdict))
    verdict.require()


async def test_a_killed_router_comes_back_and_no_agent_notices(cluster: ClusterProcess, hosts: Hosts, say: Say) -> None:
    cluster.kill_router()
    killed_s = time.monotonic()
    await hosts.work()
    say(f"kill -9 of the router: {AGENTS} tasks ran within {time.monotonic() - killed_s:.1f} s of it")
    assert not hosts.recorder.of(Closed)
    check(hosts.recorder.events).require()


async def test_the_embedded_redis_killed_comes_back_with_its_data(
    cluster: ClusterProcess, hosts: Hosts, say: Say
) -> None:
    away = hosts.fleet.agents[0]
    agent_id = away.agent_id
    await away.stop()
    await eventually(lambda: hosts.shown_otherwise(agent_id, "inactive"))
    task = new_task(1)
    pending: Any = (await hosts.control_plane.post_task(agent_id, task)).json()
    assert pending["status"] == "pending"
    url, redis = redis_url(cluster), cluster.redis_pid()
    signal_child(redis, cluster.supervisor.pid, signal.SIGKILL)
    killed_s = time.monotonic()
    await eventually(lambda: is_running(redis) and "it runs")
    await hosts.control_plane.post_task(2, new_task(2))
    took_s = time.monotonic() - killed_s
    assert redis_url(cluster) == url
    away.start()
    await away.connected()
    assert away.agent_id == agent_id
    await hosts.work()
    verdict = check(hosts.recorder.events)
    say(f"kill -9 of the embedded Redis: the next task was taken {took_s:.1f} s after it; {verdict}")
    verdict.require()
    assert verdict.counts["tasks accepted"] == verdict.counts["of them ended"] == AGENTS + 2
    assert len(hosts.recorder.of(Closed)) == 1, "only the agent that was stopped has lost its connection"
