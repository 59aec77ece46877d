"""F19, F25: agents send everything again, in any order, on the same connection and on another node's, or under new ids: one entry each."""

import asyncio
import random
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.load import Load, Mixture, varied
from tests.faults.scene import Scene
from tests.support.agent_options import Options
from tests.support.redis_server import RedisServer
from tests.support.simulated_agent import SimulatedAgent

TIMES = 3


async def test_what_is_sent_three_times_more_and_in_any_order_is_written_once(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    agents, rounds = (100, 5) if is_long else (20, 3)
    finding.about("F19", f"agents resend everything {TIMES} times, reordered", f"{agents} agents, 150 tasks/s")
    options = Options(keeps_sent=True, doubles_results=True)
    async with Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance), options=options) as scene:
        frames = 0
        for _ in range(rounds):
            load = Load(
                scene.control_plane, hosts=agents, count=150, per_s=150.0, chance=chance, mixture=Mixture(cancels=0)
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                await asyncio.sleep(0.5)  # some tasks run, some have ended, some are still to come
                frames += sum(_repeat(agent, chance) for agent in scene.fleet.agents)
            await scene.fleet.connected()
            frames += sum(_repeat(agent, chance) for agent in scene.fleet.agents)
            finding.struck(2)
        finding.measured("frames sent again", f"{frames:,}")
        await scene.judge(finding)


async def test_an_outbox_replayed_under_new_ids_ends_no_task_again(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    """Each process that reads the file sends it all under ids of its own; the acks before did not empty it."""
    agents, restarts = (100, 5) if is_long else (20, 3)
    finding.about(
        "F25", "each result under two ids, and the outbox under new ids by every new process", f"{agents} agents"
    )
    options = Options(doubles_results=True, outbox_keeps_acked=True)
    async with Scene(tmp_path, faithful_redis, agents=agents, run=varied(chance), options=options) as scene:
        load = Load(
            scene.control_plane, hosts=agents, count=10 * agents, per_s=150.0, chance=chance, mixture=Mixture(cancels=0)
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for _ in range(4):
                await asyncio.sleep(0.3)
                for agent in scene.fleet.agents:
                    agent.cut()  # what ends now is written to the file
        await _calm(scene)
        kept = sum(len(agent.outbox) for agent in scene.fleet.agents)
        assert kept, "nothing was ever kept in an outbox"
        for _ in range(restarts):
            for agent in scene.fleet.agents:
                agent.restart_process()
            await _calm(scene)
            finding.struck(agents)
        finding.measured("messages kept in outboxes, and sent again by each process", f"{kept:,}")
        await scene.judge(finding)


async def _calm(scene: Scene) -> None:
    await scene.fleet.connected()
    await scene.fleet.settled()


def _repeat(agent: SimulatedAgent, chance: random.Random) -> int:
    """Everything again, and for one in three then the connection is lost, so that more comes again elsewhere."""
    frames = agent.resend_everything(TIMES, chance)
    if chance.random() < 1 / 3:
        agent.cut()
    return frames
