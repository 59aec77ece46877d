"""Nodes as an operator handles them: listed, drained and taken back, restarted and filled again, with agents connected and tasks under way."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from tests.support.go_wire import ENDS
from tests.support.ledger import Ledger
from tests.support.outlook import connection_gaps_s
from tests.support.recorder import Closed, Entry, Posted, Recorder
from tests.support.required_redis import require_redis
from tests.support.said import Say
from tests.support.simulated_fleet import Fleet

AGENTS = 60
SOON_BACK = Timings().returning(0.05)
RESTARTING = 1012


@asynccontextmanager
async def fleet_of(cluster: ClusterProcess, recorder: Recorder) -> AsyncIterator[Fleet]:
    async with (
        FeedReader(redis_url(cluster), recorder) as reader,
        Fleet(cluster.url, AGENTS, recorder=recorder, timings=SOON_BACK) as fleet,
    ):
        await fleet.connected()
        yield fleet
        await fleet.connected()
        await eventually(Ledger(recorder).unfinished, 60.0)
        await fleet.settled()
        await reader.caught_up()


class Load:
    """A task every 50 ms, for agents in turn; each must be taken."""

    def __init__(self, cluster: ClusterProcess, recorder: Recorder) -> None:
        self._control_plane = ControlPlane(cluster.url, recorder=recorder)
        self.statuses: Counter[int] = Counter()

    async def run(self) -> None:
        host = 0
        async with asyncio.TaskGroup() as group:
            while True:
                host = host % AGENTS + 1
                group.create_task(self._post(host))
                await asyncio.sleep(0.05)

    async def _post(self, host: int) -> None:
        self.statuses[(await self._control_plane.post_task(host, new_task(host))).status] += 1


@asynccontextmanager
async def load_on(cluster: ClusterProcess, recorder: Recorder) -> AsyncIterator[Load]:
    load = Load(cluster, recorder)
    running = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def ran(cluster: ClusterProcess, *words: str, code: int = 0) -> tuple[str, str]:
    """What a command line printed: stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster", *words, cwd=cluster.folder, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120.0)
    assert process.returncode == code, (words, process.returncode, out.decode(), err.decode())
    return out.decode(), err.decode()


async def listed(cluster: ClusterProcess) -> dict[str, dict[str, Any]]:
    """As `nodes list --json` has it, without the wait for an interpreter."""
    answer: Any = (await ControlPlane(cluster.url).call("GET", "/api/nodes")).json()
    return {node["id"]: node for node in answer["nodes"]}


async def agents_of(cluster: ClusterProcess) -> dict[str, int]:
    return {name: node["agents"] for name, node in (await listed(cluster)).items()}


async def test_a_drained_node_stays_up_empty_and_takes_agents_again(cluster: ClusterProcess, say: Say) -> None:
    recorder = Recorder()
    async with fleet_of(cluster, recorder) as fleet:
        said = json.loads((await ran(cluster, "nodes", "list", "--json"))[0])
        assert [(node["id"], node["state"]) for node in said] == [("n1", "ready"), ("n2", "ready")]
        pids, held = cluster.nodes(), said[0]["agents"]
        began_s = time.monotonic()
        async with load_on(cluster, recorder) as load:
            out, err = await ran(cluster, "nodes", "drain", "n1", "--rate", "100")
            say(f"drained in {time.monotonic() - began_s:.1f} s: {err.splitlines()[-1]}")
            assert "n1 is drained" in err
            await fleet.connected()
            drained = await listed(cluster)
            assert (drained["n1"]["state"], drained["n1"]["agents"], drained["n2"]["agents"]) == ("draining", 0, AGENTS)
            assert cluster.nodes() == pids
            fleet.agents[0].cut()
            await fleet.connected()
            await asyncio.sleep(1.5)
            assert await agents_of(cluster) == {"n1": 0, "n2": AGENTS}
            out, err = await ran(cluster, "nodes", "undrain", "n1")
            assert "n1 takes agents" in err
            await eventually(lambda: _cut_until_some_come_to(cluster, fleet, "n1"), 20.0, every_s=0.5)
        assert set(load.statuses) == {200}
    codes = Counter(closed.code for closed in recorder.of(Closed) if not closed.reason)
    assert codes[RESTARTING] >= held, codes  # the others were cut here
    _judge(recorder, say)
    assert not out


async def _cut_until_some_come_to(cluster: ClusterProcess, fleet: Fleet, node: str) -> str:
    """Routers look twice a second: who dials at once may still be handed to the other."""
    for agent in fleet.agents[:20]:
        agent.cut()
    await fleet.connected()
    return await _holds_some(cluster, node)


async def _holds_some(cluster: ClusterProcess, node: str) -> str:
    return "" if (await agents_of(cluster))[node] else f"{node} holds nobody"


async def test_no_task_waits_for_the_grace_because_its_agent_was_let_go_of(cluster: ClusterProcess, say: Say) -> None:
    """A task that is marked for a socket which closes before it is written goes again after 40 s."""
    recorder = Recorder()
    control_plane = ControlPlane(cluster.url, recorder=recorder)
    async with fleet_of(cluster, recorder) as fleet, load_on(cluster, recorder) as load:
        for round_ in range(6):
            node = f"n{1 + round_ % 2}"
            answer = await control_plane.call("POST", f"/api/nodes/{node}/drain", b'{"per_second": 200}')
            assert answer.status == 200, answer
            await eventually(lambda node=node: _holds_nobody(cluster, node), 20.0, every_s=0.2)  # type: ignore[misc]
            await fleet.connected()
            await control_plane.call("POST", f"/api/nodes/{node}/undrain")
            await eventually(lambda node=node: _is_ready(cluster, node), 20.0, every_s=0.2)  # type: ignore[misc]
    assert set(load.statuses) == {200}, load.statuses
    slowest_s = _slowest_s(recorder)
    say(f"6 drains under load: the slowest of {load.statuses[200]} tasks took {slowest_s:.1f} s")
    assert slowest_s < 30
    _judge(recorder, say)


async def _is_ready(cluster: ClusterProcess, node: str) -> str:
    state: str = (await listed(cluster))[node]["state"]
    return "" if state == "ready" else state


def _slowest_s(recorder: Recorder) -> float:
    """From the POST to the terminal entry."""
    posted_s = {task.task_id: event.at_s for event in recorder.of(Posted) for task in event.tasks}
    ended_s = {
        event.fields["task_id"]: event.at_s
        for event in recorder.of(Entry)
        if event.feed == "results" and event.fields["status"] in ENDS
    }
    return max(at_s - posted_s[task_id] for task_id, at_s in ended_s.items())


async def test_an_agent_that_does_not_read_holds_up_neither_the_drain_nor_the_others(
    cluster: ClusterProcess, say: Say
) -> None:
    recorder = Recorder()
    control_plane = ControlPlane(cluster.url, recorder=recorder)
    async with Fleet(cluster.url, 8, recorder=recorder, timings=SOON_BACK) as fleet:
        await fleet.connected()
        stuck = fleet.agents[0]
        stuck.stop_reading()
        large = [new_task(1, command="x" * (1 << 20)) for _ in range(8)]
        assert (await control_plane.post_batch(1, large)).status == 200
        shown: Any = (await control_plane.agent("1")).json()
        node, others = shown["node"], [agent for agent in fleet.agents if agent is not stuck]
        began_s, closed = time.monotonic(), len(recorder.of(Closed))
        drain = asyncio.create_task(ran(cluster, "nodes", "drain", node))
        await eventually(lambda: "nobody was let go" if len(recorder.of(Closed)) == closed else "", 20.0)
        first_s = time.monotonic()
        await eventually(lambda: [a.identity.name for a in others if not a.is_connected], 5.0)
        others_s = time.monotonic() - first_s
        await drain
        took_s = time.monotonic() - began_s
        say(f"others were back after {others_s:.2f} s; drained after {took_s:.1f} s")
        assert (await agents_of(cluster))[node] == 0
        assert took_s < 20


async def test_a_hook_beside_the_node_drains_it(cluster: ClusterProcess) -> None:
    """What preStop runs: by the admin port of its own machine."""
    recorder = Recorder()
    async with fleet_of(cluster, recorder):
        admin = (await _admin_ports(cluster))["n1"]
        _, err = await ran(cluster, "nodes", "drain", "--self", "--admin-port", str(admin))
        assert err == "drained\n"
        await eventually(lambda: _holds_nobody(cluster, "n1"), 5.0)


async def _admin_ports(cluster: ClusterProcess) -> dict[str, int]:
    rows = [line.split() for line in cluster.stdout.read_text().splitlines()]
    return {row[0]: int(row[-1].rpartition(":")[2]) for row in rows if row and row[0] in cluster.nodes()}


async def _holds_nobody(cluster: ClusterProcess, node: str) -> str:
    agents = (await agents_of(cluster))[node]
    return f"{node} holds {agents}" if agents else ""


async def test_a_node_that_is_not_there_is_not_drained(cluster: ClusterProcess) -> None:
    _, err = await ran(cluster, "nodes", "drain", "n9", code=3)
    assert err == "agent-server: no node 'n9' (nodes list shows all)\n"


async def test_agents_are_spread_over_a_node_that_joined(cluster: ClusterProcess, say: Say) -> None:
    recorder = Recorder()
    async with fleet_of(cluster, recorder):
        await ran(cluster, "nodes", "drain", "n1")
        await ran(cluster, "nodes", "undrain", "n1")
        await eventually(lambda: _at(cluster, {"n1": 0, "n2": AGENTS}), 10.0)
        plan, words = await ran(cluster, "nodes", "rebalance", "--dry-run", "--rate", "20")
        assert plan.splitlines()[1].split() == ["n2", "30"]
        assert words == "30 agents, about 2 s at 20/s\n"
        await asyncio.sleep(1.5)
        assert await agents_of(cluster) == {"n1": 0, "n2": AGENTS}
        _, err = await ran(cluster, "nodes", "rebalance", "--rate", "20")
        say(err.splitlines()[-1])
        assert (await agents_of(cluster)) == {"n1": 30, "n2": 30}
        _, err = await ran(cluster, "nodes", "rebalance")
        assert err == "nothing to move: no node holds more than its share\n"
    _judge(recorder, say)


async def _at(cluster: ClusterProcess, wanted: dict[str, int]) -> str:
    found = await agents_of(cluster)
    return "" if found == wanted else str(found)


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
async def test_a_rebalance_that_does_not_help_stops_and_says_so(
    redis_version: str, tmp_path: Path, cluster: ClusterProcess
) -> None:
    """As behind a load balancer that decides by itself: n1 listens on a port of its own, to which nobody is led."""
    from tests.support.service_process import ServiceProcess  # noqa: PLC0415

    recorder = Recorder()
    node = ServiceProcess("node", tmp_path / "elsewhere", redis_url=redis_url(cluster), name="elsewhere")
    async with fleet_of(cluster, recorder), node:
        await node.wait_ready()
        began_s = time.monotonic()
        _, err = await ran(cluster, "nodes", "rebalance", "--rate", "20", code=6)
        assert "stopped: of 10 agents that were moved too few went elsewhere" in err
        assert time.monotonic() - began_s < 60
        assert (await agents_of(cluster))["elsewhere"] == 0


async def test_a_restart_is_followed_until_every_process_is_back(cluster: ClusterProcess, say: Say) -> None:
    recorder = Recorder()
    async with fleet_of(cluster, recorder) as fleet:
        before, pids = await listed(cluster), {**cluster.nodes(), **cluster.routers()}
        async with load_on(cluster, recorder) as load:
            _, err = await ran(cluster, "restart")
            await fleet.connected()
            await asyncio.sleep(1.0)
        assert set(load.statuses) == {200}, load.statuses
        say(f"{load.statuses[200]} POSTs, none failed; {err.splitlines()[-1]}")
        after = await listed(cluster)
        assert all(after[name]["boot"] != node["boot"] for name, node in before.items())
        assert not set({**cluster.nodes(), **cluster.routers()}.values()) & set(pids.values())
        for name in ("n1", "n2", "r1"):
            assert f"{name}: back" in err
    gaps_s = sorted(connection_gaps_s(recorder.events))
    at = {p: gaps_s[min(len(gaps_s) - 1, int(p / 100 * len(gaps_s)))] for p in (50, 99)}
    say(f"gap of an agent: p50 {at[50]:.2f} s, p99 {at[99]:.2f} s, n={len(gaps_s)}")
    assert at[99] <= 3.0
    _judge(recorder, say)


async def test_a_restart_that_does_not_come_about_is_told(cluster: ClusterProcess) -> None:
    """The settings cannot be used any more: the supervisor goes on as it is, and the command does not wait for ever."""
    await eventually(lambda: _not_all_listed(cluster), 20.0)
    config = cluster.folder / "config.yaml"
    good = config.read_text()
    port = json.loads(good)["server"]["port"]
    config.write_text(good.replace('"level": "info"', '"level": "loud"'))
    (cluster.folder / "elsewhere").mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster", "restart", "--timeout", "2", "--url", f"http://127.0.0.1:{port}",
        cwd=cluster.folder / "elsewhere", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await asyncio.wait_for(process.communicate(), 60.0)
    assert process.returncode == 5, err
    assert "nothing has changed for 2 s: n1, n2, r1" in err.decode()
    assert "not restarted, the settings cannot be used" in cluster.output()


async def _not_all_listed(cluster: ClusterProcess) -> str:
    """A cluster serves as soon as one of its nodes does."""
    found = await listed(cluster)
    return "" if set(found) == {"n1", "n2"} else str(found)


def _judge(recorder: Recorder, say: Say) -> None:
    verdict = check(recorder.events)
    say(str(verdict))
    verdict.require()


@pytest.fixture(autouse=True)
def redis_is_there() -> None:
    require_redis("6.2")
