"""Who dies in a fault test, and when: drawn from a seed, written into the history.

Every victim comes back by itself, except Redis and a paused node, which are brought back here. Blows go on until `until` is set; how
many there were, and of what, is told afterwards.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from tests.faults.finding import Finding
from tests.faults.scene import Scene

_KILLS = ("node", "router", "redis")
Blow = Callable[[], Awaitable[str]]  # says whom it struck; "" when nobody was there


class Havoc:
    """Strikes at random. `weights`: what may be struck, and how often in proportion: see `_blows`."""

    def __init__(
        self, scene: Scene, chance: random.Random, weights: Mapping[str, float], pause_s: tuple[float, float]
    ) -> None:
        self._scene = scene
        self._chance = chance
        self._weights = dict(weights)
        self._pause_s = pause_s
        self._blows: dict[str, Blow] = {
            "node": self._node, "router": self._router, "redis": self._redis, "stall": self._stall,
            "pause": self._pause, "cut": self._cut, "agent": self._agent,
        }  # fmt: skip
        self.struck: Counter[str] = Counter()

    async def run(self, until: asyncio.Event) -> None:
        """Strike, pause, and strike again."""
        while not until.is_set():
            kind = self._chance.choices(list(self._weights), list(self._weights.values()))[0]
            self._scene.recorder.fault(f"a blow at {kind}")
            victim = await self._blows[kind]()
            if victim:
                self.struck[kind] += 1
                self._scene.recorder.fault(f"struck: {victim}")
            await _pause(until, self._chance.uniform(*self._pause_s))

    def tell(self, finding: Finding) -> None:
        """How much was struck."""
        kills = sum(self.struck[kind] for kind in _KILLS)
        finding.killed(kills)
        finding.struck(self.struck.total() - kills)

    async def _node(self) -> str:
        node_id = self._any_node()
        if node_id:
            self._scene.cluster.kill_node(node_id)
        return node_id

    def _any_node(self) -> str:
        nodes = sorted(self._scene.cluster.nodes())
        return self._chance.choice(nodes) if nodes else ""

    async def _router(self) -> str:
        if not self._scene.cluster.routers():
            return ""
        self._scene.cluster.kill_router()
        return "the router"

    async def _redis(self) -> str:
        self._scene.redis.kill()
        away_s = self._chance.uniform(0.2, 3.0)
        await asyncio.sleep(away_s)
        self._scene.redis.launch()  # in this thread: the kernel kills what a thread started with it
        await asyncio.to_thread(self._scene.redis.wait_answering, 30.0)  # agents go on beating meanwhile
        return f"Redis, for {away_s:.1f} s"

    async def _stall(self) -> str:
        """Redis stands still: what it was asked is done later, when nobody waits for the reply any more."""
        self._scene.redis.pause()
        stalled_s = self._chance.uniform(0.5, 5.0)
        await asyncio.sleep(stalled_s)
        self._scene.redis.resume()
        return f"Redis, stalled for {stalled_s:.1f} s"

    async def _pause(self) -> str:
        """SIGSTOP for a while, during which some of its agents go elsewhere: what it writes afterwards comes too late."""
        node_id = self._any_node()
        if not node_id:
            return ""
        self._scene.cluster.pause_node(node_id)
        for agent in self._chance.sample(self._scene.fleet.agents, len(self._scene.fleet.agents) // 4):
            if agent.is_connected:
                agent.cut()
        away_s = self._chance.uniform(0.5, 4.0)
        await asyncio.sleep(away_s)
        self._scene.cluster.resume_node(node_id)
        return f"{node_id}, paused for {away_s:.1f} s"

    async def _cut(self) -> str:
        agent = self._chance.choice(self._scene.fleet.agents)
        if not agent.is_connected:
            return ""
        agent.cut()
        return f"the connection of {agent.identity.name}"

    async def _agent(self) -> str:
        agent = self._chance.choice(self._scene.fleet.agents)
        agent.restart_process()
        return f"the process of {agent.identity.name}"


async def _pause(until: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await until.wait()
    except TimeoutError:
        return
