"""A config.yaml of the Go server, found in the working directory, is all that it takes, and nothing is said about it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agent_options import Timings
from tests.support.cluster_process import ROOT, START, ClusterProcess
from tests.support.config_text import GO_FILE
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.recorder import Delivered, Recorder
from tests.support.redis_server import RedisServer
from tests.support.simulated_agent import SimulatedAgent
from tests.support.spawned import spawn


class GoCluster(ClusterProcess):
    """Started without a flag, where the Go server's file lies."""

    def __init__(self, folder: Path, redis: RedisServer | None) -> None:
        super().__init__(folder, nodes=max(2, len(os.sched_getaffinity(0)) - 1))
        self._text = GO_FILE.replace("port: 8080", f"port: {self.port}")
        if redis is not None:
            self._text = self._text.replace("redis:6379", redis.address)
        else:
            self._text = self._text.replace("redis:\n  enabled: true", "redis:\n  enabled: false")

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(self._text)
        self._process = spawn(START, cwd=self.folder, stdout=self.stdout, stderr=self.stderr, env=self._environ)


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
@pytest.mark.parametrize("brings_redis", [True, False], ids=["embedded", "configured"])
async def test_a_file_with_only_the_go_servers_keys_works_without_a_warning(
    killable_redis: RedisServer, tmp_path: Path, brings_redis: bool
) -> None:
    async with GoCluster(tmp_path / "here", None if brings_redis else killable_redis) as cluster:
        await cluster.wait_ready(30.0)
        recorder = Recorder()
        agent = SimulatedAgent(cluster.url, token="t", host_id=1, recorder=recorder, timings=Timings())
        agent.start()
        await agent.connected()
        assert (await ControlPlane(cluster.url).post_task(1, new_task(1))).status == 200
        await eventually(lambda: not recorder.of(Delivered) and "the task has not come")
        await agent.stop()
        assert "warning" not in cluster.output(), cluster.output()
        assert await cluster.stop() < 20.0


def test_config_check_finds_nothing_odd_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(GO_FILE)
    argv = [sys.executable, "-m", "cluster", "config", "check"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    checked = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stdout + checked.stderr
    assert checked.stdout.rstrip().endswith("ok")
