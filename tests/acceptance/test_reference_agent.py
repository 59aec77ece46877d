"""The reference agent and a real cluster, as processes: what is posted is done, and stands in the streams, whatever dies in between."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.support.cluster_process import ROOT, ClusterProcess
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.spawned import spawn

pytestmark = pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)

HOST_ID = 7
Entry = dict[str, str]


class AgentProgram:
    """`python -m cluster.lab.agent`, started as often as a test wants, always with the same state."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._argv = [sys.executable, "-m", "cluster.lab.agent", "--url", url, "--name", "web-1"]
        self._argv += ["--label", "env=prod", "--host-id", str(HOST_ID), "--state-dir", str(folder / "state")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log, environ = self._folder / "agent.log", {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = spawn(self._argv, cwd=self._folder, stdout=log, stderr=log, env=environ)

    def said(self) -> str:
        return (self._folder / "agent.log").read_text()

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait, 15)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


class Scene:
    """A cluster, an agent of it, and a control plane that reads the streams."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.cluster = ClusterProcess(folder / "cluster", redis_url=redis_url)
        self.agent = AgentProgram(folder, self.cluster.url)
        self.control_plane = ControlPlane(self.cluster.url)
        self.redis = Redis.from_url(redis_url, decode_responses=True)

    async def known(self) -> dict[str, Any]:
        """What the cluster says of the agent; nothing before it has registered."""
        answer = await self.control_plane.agent(HOST_ID)
        said = answer.json() if answer.status == 200 else {}
        assert isinstance(said, dict)
        return said

    async def start_agent(self) -> None:
        self.agent.start()
        await self.until_connected()

    async def until_connected(self, *, not_by: str = "") -> None:
        async def wrong() -> str:
            known = await self.known()
            is_there = known.get("status") == "active" and known.get("node") not in {"", None, not_by}
            return "" if is_there else f"{known}\n{self.agent.said()}"

        await eventually(wrong, 20.0)

    async def post(self, text: str, **fields: Any) -> tuple[str, str]:
        """Posts a script. Returns its id, and how that was answered."""
        task = new_task(HOST_ID, type="script", command=text, **fields)
        answer = await self.control_plane.post_task(HOST_ID, task)
        said = answer.json()
        assert (answer.status, isinstance(said, dict)) == (200, True), answer.body
        assert isinstance(said, dict)
        return str(task["id"]), said["status"]

    async def feed(self, key: str, task_id: str) -> list[Entry]:
        found: list[tuple[str, Entry]] = await self.redis.xrange(key)  # type: ignore[assignment]
        return [fields for _, fields in found if fields.get("task_id") == task_id]

    async def lines(self, task_id: str) -> list[str]:
        return [entry["content"] for entry in await self.feed("agent_logs", task_id)]

    async def result(self, task_id: str, timeout_s: float = 20.0) -> Entry:
        """The one end of a task."""

        async def wrong() -> str:
            return "" if await self.feed("agent_results", task_id) else f"no result\n{self.agent.said()}"

        await eventually(wrong, timeout_s)
        (result,) = await self.feed("agent_results", task_id)
        return result

    async def until_it_says(self, task_id: str, line: str) -> None:
        async def wrong() -> str:
            lines = await self.lines(task_id)
            return "" if line in lines else f"{lines}\n{self.agent.said()}"

        await eventually(wrong, 20.0)


@pytest.fixture
async def scene(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path, redis_server.url)
    try:
        async with scene.cluster as cluster:
            await cluster.wait_ready(30.0)
            await scene.start_agent()
            yield scene
    finally:
        scene.agent.kill()
        await scene.redis.aclose()


async def test_a_task_is_run_and_its_lines_and_result_are_in_the_streams(scene: Scene) -> None:
    text = 'echo "$A $1"; echo oops >&2; for i in $(seq 1 100); do echo $i; done; exit 3'
    task_id, status = await scene.post(text, env={"A": "hello"}, args=["world"])
    result = await scene.result(task_id)
    assert status == "dispatched"
    assert (result["status"], result["exit_code"], result["error_msg"]) == ("failed", "3", "exit status 3")
    assert result["host_id"] == str(HOST_ID)
    assert 0 < int(result["started_at"]) <= int(result["finished_at"])
    lines = await scene.lines(task_id)
    assert [line for line in lines if line != "oops"] == ["hello world", *map(str, range(1, 101))]
    assert lines.count("oops") == 1
    assert int(result["log_size"]) == sum(len(line) + 1 for line in lines)
    known = await scene.known()
    assert (known["name"], known["labels"]) == ("web-1", {"env": "prod"})


async def test_a_cancelled_task_ends_as_cancelled(scene: Scene) -> None:
    task_id, _ = await scene.post("echo on; sleep 60")
    await scene.until_it_says(task_id, "on")
    assert (await scene.control_plane.cancel(HOST_ID, task_id)).status == 200
    assert (await scene.result(task_id))["status"] == "cancelled"


async def test_what_was_posted_while_the_agent_was_away_is_run_when_it_is_back(scene: Scene) -> None:
    running, _ = await scene.post("echo on; sleep 60")
    await scene.until_it_says(running, "on")
    assert await scene.agent.stop() == 0
    stopped = await scene.result(running)
    assert (stopped["status"], stopped["error_msg"]) == ("failed", "agent stopped")

    async def still_there() -> bool:
        return bool((await scene.known())["status"] == "active")

    await eventually(still_there)
    task_id, status = await scene.post("echo back")
    assert status == "pending"
    await scene.start_agent()
    assert (await scene.result(task_id))["status"] == "success"
    assert await scene.lines(task_id) == ["back"]


async def test_a_node_that_is_killed_under_a_task_costs_nothing(scene: Scene) -> None:
    runs = scene.folder / "runs"
    task_id, _ = await scene.post(f"echo once >> {runs}; for i in $(seq 1 40); do echo $i; sleep 0.1; done")
    await scene.until_it_says(task_id, "3")
    node = (await scene.known())["node"]
    scene.cluster.kill_node(node)
    result = await scene.result(task_id)
    assert result["status"] == "success"
    assert await scene.lines(task_id) == [str(number) for number in range(1, 41)]
    assert runs.read_text() == "once\n"
    after, _ = await scene.post("echo again")
    assert (await scene.result(after))["status"] == "success"


async def test_what_ended_while_the_cluster_was_away_is_told_by_the_next_process(scene: Scene) -> None:
    go = scene.folder / "go"
    task_id, _ = await scene.post(f"echo before; while [ ! -e {go} ]; do sleep 0.05; done; echo after")
    await scene.until_it_says(task_id, "before")
    await scene.cluster.stop()
    go.touch()
    await eventually(lambda: "" if f"{task_id}: success" in scene.agent.said() else scene.agent.said())
    scene.agent.kill()
    scene.cluster.start()
    await scene.cluster.wait_ready(30.0)
    scene.agent.start()
    assert (await scene.result(task_id))["status"] == "success"
    await scene.until_it_says(task_id, "after")
    assert await scene.lines(task_id) == ["before", "after"]
