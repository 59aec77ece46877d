"""F11: Redis comes back empty. Live agents are registered and owned again; of open tasks, those that a session knows end as lost."""

import random
import time
from pathlib import Path

from redis.asyncio import Redis

from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import Scene
from tests.support.control_plane import new_task
from tests.support.eventually import eventually
from tests.support.history import History
from tests.support.recorder import Closed
from tests.support.redis_server import RedisServer
from tests.support.task_runner import Execution

OWNED_AGAIN_S = 15.0


async def test_live_agents_are_registered_and_owned_again_and_tasks_go_on(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, rounds, per_s = (200, 3, 100.0) if is_long else (40, 1, 50.0)
    finding.about("F11", "`FLUSHALL`: live agents", f"{agents} agents, {per_s:g} tasks/s before and after")
    async with Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance)) as scene:
        processes = {**scene.cluster.nodes(), **scene.cluster.routers()}
        for number in range(rounds):
            await _load(scene, chance, per_s, number)
            await scene.judge(finding)
            owned_s = await _flush(scene)
            finding.struck()
            finding.measured("registered and owned again", owned_s, f"<= {OWNED_AGAIN_S:g} s")
            assert owned_s <= OWNED_AGAIN_S
        await _load(scene, chance, per_s, rounds)
        await scene.judge(finding)
        assert {**scene.cluster.nodes(), **scene.cluster.routers()} == processes, "a process was started again"
        dropped = len(scene.recorder.of(Closed))
        finding.counted("sockets dropped", dropped, agents, "0")
        assert not dropped


async def test_open_tasks_that_a_live_session_knows_end_as_lost(
    faithful_redis: RedisServer, tmp_path: Path, finding: Finding
) -> None:
    agents = 20
    finding.about("F11", "`FLUSHALL`: open tasks", f"{agents} agents, two running tasks each")
    async with Scene(tmp_path, faithful_redis, agents=agents, run=lambda _: Execution((), 600.0)) as scene:
        tasks = [new_task(host) for host in range(1, agents + 1) for _ in range(2)]
        for task in tasks:
            assert (await scene.control_plane.post_task(str(task["id"]).split("_")[2], task)).status == 200
        await eventually(
            lambda: len(tasks) - sum(len(agent.process.tasks.running) for agent in scene.fleet.agents), 20.0
        )
        await _flush(scene)
        finding.struck()
        began_s = time.monotonic()
        await eventually(scene.ledger.unfinished, 20.0, every_s=0.1)
        finding.measured("all open tasks ended", time.monotonic() - began_s)
        ends = [ended for task in History(scene.recorder.events).tasks.values() for ended in task.ends]
        finding.counted("ends", len(ends), len(tasks), "one each")
        assert len(ends) == len(tasks)
        assert all(end.fields["status"] == "failed" and "lost" in end.fields["error_msg"] for end in ends)


async def _load(scene: Scene, chance: random.Random, per_s: float, number: int) -> None:
    """Two seconds of it, for executions that no other round has: what Redis knew of them is gone with the rest."""
    hosts, first = len(scene.fleet.agents), 1 + 100 * number
    await Load(
        scene.control_plane, hosts=hosts, count=int(2 * per_s), per_s=per_s, chance=chance, first_execution=first
    ).run()


async def _flush(scene: Scene) -> float:
    """How long until every agent has a profile, an owner and a lease again."""
    scene.recorder.fault("FLUSHALL")
    assert scene.redis.command("FLUSHALL") == b"+OK"
    began_s = time.monotonic()
    await eventually(lambda: _missing(scene), 60.0, every_s=0.1)
    return time.monotonic() - began_s


async def _missing(scene: Scene) -> str:
    ids = [agent.agent_id for agent in scene.fleet.agents]
    async with Redis.from_url(scene.redis.url, decode_responses=True) as redis:
        owners = await redis.hlen("agsrv:{s0}:owners")
        known = await redis.exists(*(f"agsrv:{{s0}}:agent:{agent}" for agent in ids))
        leases = await redis.exists(*(f"agsrv:{{s0}}:lease:{agent}" for agent in ids))
    counts = (owners, known, leases)
    return "" if counts == (len(ids),) * 3 else f"{counts} owners, profiles and leases of {len(ids)}"
