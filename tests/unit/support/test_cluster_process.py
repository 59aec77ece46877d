"""Processes of a cluster are found, hit and ended by what /proc says of them; here with a stand-in of a few lines for the product."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cluster_process import ClusterProcess
from tests.support.eventually import eventually
from tests.support.spawned import children_of, is_running, signal_child

STAND_IN = """
import ctypes, json, signal, subprocess, sys
config = json.load(open(sys.argv[sys.argv.index("--config") + 1]))
port = str(config["server"]["port"])
print("starting", flush=True)
argv = [[sys.executable, "-m", "node", "--id", f"n{number}"] for number in range(1, config["cluster"]["nodes"] + 1)]
argv.append([sys.executable, "-m", "router", "--id=r1", port])
prctl = ctypes.CDLL(None).prctl
children = [subprocess.Popen(one, preexec_fn=lambda: prctl(1, signal.SIGKILL)) for one in argv]
if config["cluster"].get("exits"):
    sys.exit(config["cluster"]["exits"])
def end(*_):
    for child in children:
        child.kill()
        child.wait()
    sys.exit(config["cluster"].get("exit_code", 0))
signal.signal(signal.SIGTERM, signal.SIG_IGN if config["cluster"].get("stubborn") else end)
while True:
    signal.pause()
"""
NODE = "import time\ntime.sleep(600)\n"
ROUTER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/metrics" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


def stand_in(folder: Path, **config: object) -> ClusterProcess:
    modules = folder / "modules"
    modules.mkdir()
    for name, text in (("cluster_stand_in", STAND_IN), ("node", NODE), ("router", ROUTER)):
        (modules / f"{name}.py").write_text(text)
    command = (sys.executable, str(modules / "cluster_stand_in.py"))
    return ClusterProcess(folder, command=command, environ={"PYTHONPATH": str(modules)}, config={"cluster": config})


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterProcess]:
    async with stand_in(tmp_path) as running:
        await running.wait_ready()
        yield running


async def test_nodes_and_routers_are_found_by_their_command_lines(cluster: ClusterProcess) -> None:
    assert set(cluster.nodes()) == {"n1", "n2"}
    assert set(cluster.routers()) == {"r1"}
    assert len(cluster.children()) == 3


async def test_a_killed_node_is_gone_and_the_others_are_not(cluster: ClusterProcess) -> None:
    pid = cluster.kill_node("n1")
    await eventually(lambda: is_running(pid))
    assert set(cluster.nodes()) == {"n2"}
    with pytest.raises(KeyError):
        cluster.kill_node("n1")


async def test_a_paused_node_is_paused_until_it_is_resumed(cluster: ClusterProcess) -> None:
    pid = cluster.pause_node("n2")
    await eventually(lambda: state_of(pid) != "T")
    cluster.resume_node("n2")
    await eventually(lambda: state_of(pid) == "T")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_nobody_but_a_child_is_signalled(cluster: ClusterProcess) -> None:
    with pytest.raises(ProcessLookupError):
        signal_child(os.getpid(), cluster.supervisor.pid, signal.SIGKILL)


async def test_a_clean_stop_tells_its_time(cluster: ClusterProcess) -> None:
    children = cluster.children()
    assert await cluster.stop() < 20.0
    assert not [child for child in children if is_running(child.pid)]


async def test_an_exit_code_that_was_not_expected(tmp_path: Path) -> None:
    async with stand_in(tmp_path, exit_code=3) as cluster:
        await cluster.wait_ready()
        with pytest.raises(AssertionError, match="ended with 3"):
            await cluster.stop()


async def test_a_stop_that_takes_too_long(tmp_path: Path) -> None:
    async with stand_in(tmp_path, stubborn=True) as cluster:
        await cluster.wait_ready()
        children = cluster.children()
        with pytest.raises(AssertionError, match=r"after 0\.2 s still: it runs"):
            await cluster.stop(0.2)
        await eventually(lambda: [child for child in children if is_running(child.pid)])


async def test_a_cluster_that_ends_instead_of_getting_ready_says_why(tmp_path: Path) -> None:
    async with stand_in(tmp_path, exits=2) as cluster:
        with pytest.raises(AssertionError, match="ended with 2:\nstarting"):
            await cluster.wait_ready()


async def test_its_children_die_with_it(cluster: ClusterProcess) -> None:
    cluster.pause_node("n1")
    await cluster.kill_and_wait()


async def test_it_can_be_started_again_on_the_same_port(cluster: ClusterProcess) -> None:
    await cluster.stop()
    cluster.start()
    await cluster.wait_ready()


def test_its_configuration_is_laid_over_the_plain_one(tmp_path: Path) -> None:
    cluster = ClusterProcess(
        tmp_path, redis_url="redis://x", config={"redis": {"prefix": "p:"}, "auth": {"shared_secret": "s"}}
    )
    assert cluster._config["redis"] == {"enabled": True, "url": "redis://x", "prefix": "p:"}
    assert cluster._config["auth"] == {"shared_secret": "s"}
    assert json.loads(json.dumps(cluster._config)) == cluster._config


def test_it_inherits_no_settings_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SERVER_PORT", "1")
    monkeypatch.setenv("AUTH_SHARED_SECRET", "x")
    cluster = ClusterProcess(tmp_path)
    assert "AGENT_SERVER_PORT" not in cluster._environ
    assert "AUTH_SHARED_SECRET" not in cluster._environ


def test_a_process_that_is_gone_has_no_children() -> None:
    assert children_of(2**22 + 1) == []
