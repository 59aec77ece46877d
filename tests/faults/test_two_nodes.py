"""F17: an agent dials two nodes at about the same time, again and again: one of them owns it, the newest, and only that one delivers."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from cluster import close_codes
from tests.faults.finding import Finding
from tests.faults.scene import READY_S
from tests.faults.torn_agent import Line, TornAgent
from tests.support.agent_options import Identity
from tests.support.checker import Rules, check
from tests.support.cluster_process import Section
from tests.support.control_plane import ControlPlane, new_task
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.ledger import Ledger
from tests.support.recorder import Recorder
from tests.support.redis_server import RedisServer
from tests.support.service_process import Role, ServiceProcess

APART_S = 0.03  # at the most, between the two dials
LATE_S = 0.25  # what a loser reads later than this after its successor was open was sent to the wrong one
ROLES: dict[str, Role] = {"a": "node", "b": "node", "r": "router"}
CONFIG: dict[str, Section] = {
    "agent": {"max_takeovers": 0},
    "tasks": {"redelivery_grace": 1},
    "logging": {"level": "warn"},
}


@pytest.fixture
async def services(faithful_redis: RedisServer, tmp_path: Path) -> AsyncIterator[dict[str, ServiceProcess]]:
    """Two nodes, each with a port of its own, and a router."""
    async with AsyncExitStack() as stack:
        services = {}
        for name, role in ROLES.items():
            service = ServiceProcess(role, tmp_path / name, redis_url=faithful_redis.url, config=CONFIG)
            services[name] = await stack.enter_async_context(service)
        for service in services.values():
            await service.wait_ready(READY_S)
        yield services


class Contest:
    """The agent, the two nodes it dials, and the control plane that posts for it meanwhile."""

    def __init__(
        self, services: dict[str, ServiceProcess], agent: TornAgent, redis: Redis, chance: random.Random
    ) -> None:
        self._services = services
        self._agent = agent
        self._redis = redis
        self._chance = chance
        self._control_plane = ControlPlane(services["r"].url, recorder=agent.recorder)
        self._node_of: dict[str, str] = {}
        self.rounds: Counter[str] = Counter()

    async def round(self) -> None:
        """Both dials, a POST at some moment in between, and the judgement of who has won."""
        first, second = self._chance.sample(("a", "b"), 2)
        delay_s, post_s = self._chance.uniform(0, APART_S), self._chance.uniform(0, 2 * APART_S)
        earlier, later, answer = await asyncio.gather(
            self._dial(first, 0.0), self._dial(second, delay_s), self._post(post_s)
        )
        assert answer == 200
        await eventually(self._undecided, 5.0, every_s=0.005)
        [winner] = self._agent.open_lines()
        if later.dialled_s > earlier.opened_s:
            assert winner is later, "the newer connection lost"
            self.rounds["one after the other"] += 1
        else:
            self.rounds["at once, the first won" if winner is earlier else "at once, the second won"] += 1

    async def _dial(self, node: str, delay_s: float) -> Line:
        await asyncio.sleep(delay_s)
        line = await self._agent.dial(self._services[node].url)
        self._node_of[line.name] = node
        return line

    async def _post(self, delay_s: float) -> int:
        await asyncio.sleep(delay_s)
        return (await self._control_plane.post_task(self._agent.agent_id, new_task())).status

    async def _undecided(self) -> str:
        """One connection is open, to the node which Redis calls the owner, under the newest epoch."""
        lines = [self._node_of[line.name] for line in self._agent.open_lines()]
        owner = str(await self._redis.hget("agsrv:{s0}:owners", self._agent.agent_id))
        newest = str(await self._redis.hget(f"agsrv:{{s0}}:agent:{self._agent.agent_id}", "epoch"))
        node, _, rest = owner.partition(":")
        is_decided = lines == [node] and rest.rpartition(":")[2] == newest
        return "" if is_decided else f"connections to {lines}, owned by {owner}, newest epoch {newest}"


async def test_of_two_connections_the_newest_owns_and_the_other_gets_nothing(
    services: dict[str, ServiceProcess],
    faithful_redis: RedisServer,
    chance: random.Random,
    finding: Finding,
    is_long: bool,
) -> None:
    finding.about("F17", "one agent dials two nodes at about the same time", "a POST a round")
    recorder = Recorder()
    ledger = Ledger(recorder)
    agent = TornAgent(Identity(services["r"].url, "torn", "torn"), recorder)
    await agent.register()
    async with (
        FeedReader(faithful_redis.url, recorder) as reader,
        Redis.from_url(faithful_redis.url, decode_responses=True) as redis,
    ):
        contest = Contest(services, agent, redis, chance)
        for _ in range(500 if is_long else 150):
            await contest.round()
            finding.struck()
        await eventually(lambda: _repeated(agent) or ledger.unfinished(), 30.0, every_s=0.2)
        await reader.caught_up()
    codes = Counter(line.close_code for line in agent.lines if not line.is_open)
    finding.measured("rounds", ", ".join(f"{count} x {how}" for how, count in contest.rounds.items()))
    finding.counted("losers closed with 4409", codes[close_codes.REPLACED], codes.total(), "all")
    verdict = check(recorder.events, Rules(delivery_grace_s=LATE_S))
    finding.judged(verdict)
    verdict.require()
    assert not agent.unreadable
    assert codes.keys() == {close_codes.REPLACED}


def _repeated(agent: TornAgent) -> str:
    agent.resend()
    return f"{len(agent.unacked)} results are not acked" if agent.unacked else ""
