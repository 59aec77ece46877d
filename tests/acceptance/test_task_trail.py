"""At debug level a search for a task's id finds its way through the processes, from the POST to its entry."""

import json
from pathlib import Path
from typing import Any

from tests.acceptance.canaries import SECRET, watched
from tests.support.cluster_process import ClusterProcess
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.recorder import Recorder
from tests.support.redis_server import RedisServer
from tests.support.required_redis import require_redis
from tests.support.simulated_fleet import Fleet


async def test_a_search_for_a_task_finds_each_of_its_steps(tmp_path: Path) -> None:
    require_redis("7.0")
    recorder = Recorder()
    with RedisServer(tmp_path / "redis") as redis:
        async with watched(tmp_path / "cluster", redis) as cluster, Fleet(cluster.url, 1, recorder=recorder) as fleet:
            await fleet.connected()
            agent_id = fleet.agents[0].agent_id
            task = new_task(1)
            control_plane = ControlPlane(cluster.url, recorder=recorder, secret=SECRET)
            assert (await control_plane.post_task(1, task)).status == 200
            await eventually(lambda: "" if "task written" in _steps(cluster, str(task["id"])) else "not written", 20.0)
            found = _records(cluster, str(task["id"]))
    steps = list(dict.fromkeys(record["message"] for record in found))
    assert [step for step in steps if step != "task in hand"] == [
        "task accepted",
        "task sent",
        "task result came",
        "task written",
    ]
    assert {record["agent_id"] for record in found} == {agent_id}
    assert [record["process.name"][0] for record in found][:2] == ["r", "n"]
    assert found[-1]["status"] == "success"


def _records(cluster: ClusterProcess, task_id: str) -> list[dict[str, Any]]:
    """The lines that hold it, of all processes, by time."""
    paths = sorted((cluster.folder / "logs").iterdir())
    lines = (line for path in paths for line in path.read_text().splitlines() if task_id in line)
    return sorted(map(json.loads, lines), key=lambda record: str(record["@timestamp"]))


def _steps(cluster: ClusterProcess, task_id: str) -> set[str]:
    return {str(record["message"]) for record in _records(cluster, task_id)}
