"""F19: agents send everything three times more, in any order, on the same connection and on another node's: one entry each."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.faults.load import Load, Mixture, varied
from tests.faults.scene import Scene
from tests.support.agent_options import Options
from tests.support.redis_server import RedisServer
from tests.support.said import Say
from tests.support.simulated_agent import SimulatedAgent

pytestmark = pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)

TIMES = 3


async def test_what_is_sent_three_times_more_and_in_any_order_is_written_once(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, say: Say, is_long: bool
) -> None:
    agents, rounds = (100, 10) if is_long else (20, 3)
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
        say(f"{frames} frames sent again")
        await scene.judge(say)


def _repeat(agent: SimulatedAgent, chance: random.Random) -> int:
    """Everything again, and for one in three then the connection is lost, so that more comes again elsewhere."""
    frames = agent.resend_everything(TIMES, chance)
    if chance.random() < 1 / 3:
        agent.cut()
    return frames
