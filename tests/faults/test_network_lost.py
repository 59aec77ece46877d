"""F14: agents lose their network, and nobody is told. They are offline in time, with no help from Redis's expiry events."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.finding import Finding
from tests.faults.load import Load, varied
from tests.faults.scene import SOON_BACK, Scene
from tests.support.cluster_process import START
from tests.support.eventually import eventually
from tests.support.outlook import offline_after_s, shown_offline
from tests.support.recorder import Continued, Stopped
from tests.support.redis_server import RedisServer
from tests.support.simulated_agent import SimulatedAgent, timings_with
from tests.support.tcp_proxy import TcpProxy

TIMEOUT_S = 5
LATE_S = 2.0
CONFIG = {"agent": {"heartbeat_timeout": TIMEOUT_S}, "status_stream": {"interval": 2}}


async def test_agents_that_lose_their_network_are_offline_in_time_and_the_others_are_not(
    faithful_redis: RedisServer, tmp_path: Path, chance: random.Random, finding: Finding, is_long: bool
) -> None:
    rounds = 4 if is_long else 1
    agents, per_s = (200, 80.0) if is_long else (40, 30.0)
    finding.about(
        "F14", "a quarter of the agents behind a black hole, no expiry events", f"{agents} agents, {per_s:g} tasks/s"
    )
    async with lost_network(tmp_path, faithful_redis, agents, chance) as (scene, proxy):
        count = int(per_s * rounds * (TIMEOUT_S + LATE_S))
        load = Load(scene.control_plane, hosts=agents, count=count, per_s=per_s, chance=chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for _ in range(rounds):
                late_s = await fall_silent(scene, proxy)
                finding.struck()
                finding.measured("offline after", late_s, f"<= {TIMEOUT_S + LATE_S:g} s")
                assert late_s <= TIMEOUT_S + LATE_S
                await eventually(lambda: _still_offline(scene), 60.0, every_s=0.2)
        await scene.judge(finding)


@asynccontextmanager
async def lost_network(
    folder: Path, redis: RedisServer, agents: int, chance: random.Random, command: Sequence[str] = START
) -> AsyncIterator[tuple[Scene, TcpProxy]]:
    """A scene of which every fourth agent is behind a proxy."""
    async with TcpProxy() as proxy:
        scene = Scene(
            folder, redis, agents=agents, run=varied(chance), timings=timings_with(SOON_BACK, heartbeat_s=1.0),
            config=CONFIG, command=command, url_of=lambda n: proxy.url if n % 4 == 0 else "",
        )  # fmt: skip
        proxy.upstream_port = scene.cluster.port
        redis.command("CONFIG", "SET", "notify-keyspace-events", "")
        async with scene:
            yield scene, proxy


async def fall_silent(scene: Scene, proxy: TcpProxy) -> float:
    """Nothing passes the proxy until all behind it are offline; how long the last one took. Raises: AssertionError."""
    silent = scene.fleet.agents[::4]
    scene.recorder.fault(f"the network of {len(silent)} agents is lost")
    for agent in silent:
        scene.recorder.add(Stopped(agent.agent_id))
    proxy.is_hole = True
    lost_s = time.monotonic()
    try:
        await eventually(lambda: _online(scene, silent, lost_s), TIMEOUT_S + 10.0, every_s=0.1)
    finally:
        proxy.is_hole = False
        for agent in silent:
            scene.recorder.add(Continued(agent.agent_id))
    return max(offline_after_s(scene.recorder.events, agent.agent_id, lost_s) or 0.0 for agent in silent)


def _still_offline(scene: Scene) -> str:
    """An agent that has its network again learns late that its connection is gone."""
    return next(shown_offline(scene.recorder.events, [agent.agent_id for agent in scene.fleet.agents]), "")


def _online(scene: Scene, agents: Sequence[SimulatedAgent], since_s: float) -> str:
    online = sum(offline_after_s(scene.recorder.events, agent.agent_id, since_s) is None for agent in agents)
    return f"{online} of {len(agents)} agents are not offline" if online else ""
