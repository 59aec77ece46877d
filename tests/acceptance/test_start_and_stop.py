"""`agent-server start` says where everything listens, serves within seconds, and ends within one when it is asked to."""

import re
import signal
import time
from pathlib import Path

import pytest

from tests.support.agent_options import Timings
from tests.support.cluster_process import ClusterProcess
from tests.support.eventually import eventually
from tests.support.http_client import HttpClient
from tests.support.recorder import Closed, Recorder
from tests.support.required_redis import require_redis
from tests.support.said import Say
from tests.support.simulated_fleet import Fleet
from tests.support.slowness import slowness

READY_S = 3.0
STOP_S = 1.0  # with few agents
RESTARTING = 1012


async def test_it_serves_within_seconds_and_prints_where_everything_listens(tmp_path: Path, say: Say) -> None:
    require_redis("6.2")
    limit_s = READY_S * await slowness()
    async with ClusterProcess(tmp_path) as cluster:
        began_s = time.monotonic()
        await eventually(lambda: "" if "ready " in _printed(cluster) else cluster.output(), 30.0, every_s=0.01)
        said_s = time.monotonic() - began_s
        await cluster.wait_ready(30.0)
        say(f"ready after {said_s:.1f} s by its own word, serving after {time.monotonic() - began_s:.1f} s")
        assert said_s <= limit_s
        printed = _printed(cluster)
        await _every_address_answers(printed)
        rows = [line.split()[:2] for line in printed.splitlines()[1:] if not line.startswith("ready")]
        told = {name: int(pid) for name, pid in rows}
        assert told == {"redis": cluster.redis_pid(), **cluster.routers(), **cluster.nodes()}
        assert printed.splitlines()[-1] == f"ready {cluster.url}"


def _printed(cluster: ClusterProcess) -> str:
    return cluster.stdout.read_text() if cluster.stdout.exists() else ""


async def _every_address_answers(printed: str) -> None:
    admins = re.findall(r"admin (http://\S+)", printed)
    assert len(admins) == 3, printed
    for url in admins:
        for path in ("/livez", "/readyz", "/metrics"):
            answer = await HttpClient(url).request("GET", path)
            assert answer.status == 200, f"{url}{path} answers {answer.status}"
    assert re.search(r"^redis +\d+ +- +redis://127\.0\.0\.1:\d+/0$", printed, re.MULTILINE), printed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_asked_to_stop_it_ends_at_once_with_0_and_tells_its_agents(
    cluster: ClusterProcess, number: signal.Signals, say: Say
) -> None:
    recorder = Recorder()
    async with Fleet(cluster.url, 20, recorder=recorder, timings=Timings()) as fleet:
        await fleet.connected()
        limit_s = STOP_S * await slowness()
        began_s = time.monotonic()
        cluster.supervisor.send_signal(number)
        code = await _ended(cluster)
        took_s = time.monotonic() - began_s
        say(f"stopped after {took_s:.2f} s with 20 agents")
        assert code == 0, cluster.output()
        assert took_s <= limit_s
        told = cluster.stderr.read_text().splitlines()[-1]
        assert told == f"agent-server: stopped; its state is in {cluster.folder / 'data'}"
        await eventually(lambda: not fleet.elsewhere() and "agents are connected")
        assert {closed.code for closed in recorder.of(Closed)} == {RESTARTING}


async def _ended(cluster: ClusterProcess) -> int:
    await eventually(lambda: cluster.supervisor.poll() is None and f"it runs:\n{cluster.output()}", 20.0, every_s=0.01)
    return int(cluster.supervisor.returncode)
