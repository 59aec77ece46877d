"""`status --check` on a cluster at work: it says that all adds up, and when a key is broken by hand it names whose, as the metrics do."""

import json
import re
import subprocess
import sys
from pathlib import Path

from redis import Redis

from tests.acceptance.embedded import redis_url
from tests.support.agent_options import Timings
from tests.support.cluster_process import ClusterProcess
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.http_client import HttpClient
from tests.support.ledger import Ledger
from tests.support.recorder import Recorder, Registered
from tests.support.simulated_fleet import Fleet


def _status(cluster: ClusterProcess, *words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "cluster", "status", *words]
    return subprocess.run(argv, cwd=cluster.folder, capture_output=True, text=True, timeout=60, check=False)


async def test_a_check_tells_what_adds_up_and_names_what_does_not(cluster: ClusterProcess) -> None:
    recorder = Recorder()
    control_plane, ledger = ControlPlane(cluster.url, recorder=recorder), Ledger(recorder)
    url = redis_url(cluster)
    async with FeedReader(url, recorder):
        async with Fleet(cluster.url, 3, recorder=recorder, timings=Timings().returning(0.05)) as fleet:
            await fleet.connected()
            for host in (1, 2, 3, 1):
                assert (await control_plane.post_task(host, new_task(host))).status == 200
            await eventually(ledger.unfinished, 20.0)
        await eventually(lambda: _offline(control_plane), 20.0)
        task = new_task(2)
        assert (await control_plane.post_task(2, task)).status == 200
        said = _status(cluster, "--check", "--deep")
        assert said.stderr == ""
        assert said.stdout.splitlines()[:2] == [
            "tasks      5 accepted = 4 ended + 1 open",
            "entries    3 owed = 3 written + 0 waiting",
        ]
        assert said.returncode == 0
        agent_id = next(event.agent for event in recorder.of(Registered) if event.host_id == 2)
        with Redis.from_url(url) as redis:
            redis.zrem(f"agsrv:{{s0}}:mail:{agent_id}", task["id"])
            redis.zrem("agsrv:{s0}:due", f"{agent_id}:{task['id']}")
        broken = _status(cluster, "--check")
        assert broken.returncode == 1
        assert "tasks      5 accepted = 4 ended + 0 open  (+1)" in broken.stdout
        assert re.search(rf"{agent_id}  {task['id']}  open, without a place in its mailbox", broken.stdout)
        assert "1 out of step; 1 tasks and 0 entries do not add up" in broken.stderr
        programs = json.loads(_status(cluster, "--check", "--json").stdout)
        assert (programs["ok"], programs["findings"][0]["task_id"]) == (False, task["id"])
        await eventually(lambda: _metric(cluster, "ledger_tasks_off 1.0"), 15.0)


async def _offline(control_plane: ControlPlane) -> str:
    active = (await control_plane.agents("status=active")).json()["agents"]  # type: ignore[index]
    return f"{len(active)} are active" if active else ""


async def _metric(cluster: ClusterProcess, line: str) -> str:
    row = next(row.split() for row in cluster.stdout.read_text().splitlines() if row.startswith("r1 "))
    text = (await HttpClient(row[-1]).request("GET", "/metrics", timeout_s=3.0)).body.decode()
    return (
        ""
        if f"agent_server_{line}\n" in text
        else "\n".join(re.findall(r"^agent_server_ledger.*$", text, re.MULTILINE))
    )


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "cluster", "status", "--check", "--data-dir", str(tmp_path)]
    said = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith("agent-server: ")
