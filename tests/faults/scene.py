"""What a fault test plays on: a cluster with its Redis, a fleet of agents, a control plane, readers of the feeds, and one history.

Owns the order in which they begin and end, and the judgement: everything accepted has ended, everything sent is acked, nothing is left
behind in Redis, nobody who was connected was declared dead, no process met a mistake of its own or told a secret, and the checker of
promises finds nothing. What goes wrong is the test's.

    async with Scene(tmp_path, redis, agents=50) as scene:
        ...
        await scene.judge(finding)
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis

from tests.faults.evidence import excerpts
from tests.faults.finding import Finding
from tests.support.agent_options import Options, Timings
from tests.support.checker import Rules, check
from tests.support.cluster_process import START, ClusterProcess, Section
from tests.support.control_plane import ControlPlane
from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.ledger import Ledger
from tests.support.outlook import declared_dead, shown_offline, unfinished_executions
from tests.support.recorder import Recorder
from tests.support.redis_server import RedisServer
from tests.support.simulated_agent import timings_with
from tests.support.simulated_fleet import SECRET, Fleet
from tests.support.task_runner import Behaviour

SOON_BACK = timings_with(Timings().returning(0.1), resend_after_s=(1.0, 2.0, 4.0, 8.0, 14.0, 20.0, 26.0, 32.0))
LIVELY = timings_with(SOON_BACK, heartbeat_s=2.0)
SHORT_LEASES: Mapping[
    str, Section
] = {  # so that a dead node's leases run out within the test, and what is shown is soon put right
    "agent": {"heartbeat_timeout": 12},
    "status_stream": {"interval": 5},
}
GRACE_S = 3.0
READY_S = 60.0  # a machine with other work is slow to start processes
_CONFIG: Mapping[str, Section] = {
    "tasks": {"redelivery_grace": GRACE_S},
    "logging": {"level": "warn"},
    "status_stream": {"interval": 5},  # the judge waits for a round of statuses
}
_SHARD = "agsrv:{s0}:"
_STATUS_S = 35.0  # an interval of statuses, 30 s where it is the longest, and some


class Scene:
    """A cluster at work. Use as a context manager.

    `redis_url`: where the cluster finds Redis, when something stands between; `url_of`: where an agent finds the cluster, likewise, or "".
    """

    def __init__(
        self,
        folder: Path,
        redis: RedisServer,
        *,
        agents: int,
        nodes: int = 2,
        config: Mapping[str, Section] | None = None,
        timings: Timings = SOON_BACK,
        run: Behaviour | None = None,
        options: Options | None = None,
        command: Sequence[str] = START,
        redis_url: str = "",
        url_of: Callable[[int], str] | None = None,
    ) -> None:
        self.folder = folder
        self.redis = redis
        self.recorder = Recorder()
        self.ledger = Ledger(self.recorder)
        config = {**_CONFIG, **(config or {})}
        self.cluster = ClusterProcess(
            folder / "cluster", redis_url=redis_url or redis.url, nodes=nodes, config=config, command=command
        )
        self.control_plane = ControlPlane(self.cluster.url, recorder=self.recorder, retry_s=0.1)
        self.fleet = Fleet(
            self.cluster.url, agents, recorder=self.recorder, timings=timings, run=run, options=options,
            url_of=lambda number: (url_of(number) if url_of else "") or self.cluster.url,
        )  # fmt: skip
        self._reader = FeedReader(redis.url, self.recorder)
        self._group = FeedReader(redis.url, self.recorder, group="django")
        self._stack = AsyncExitStack()
        self._answered_for = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.cluster)
            await self.cluster.wait_ready(READY_S)
            await stack.enter_async_context(self._reader)
            await stack.enter_async_context(self._group)
            await stack.enter_async_context(self.fleet)
            await self.fleet.connected(READY_S + len(self.fleet.agents) / 100)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # ---- the judgement

    async def judge(self, finding: Finding, rules: Rules | None = None, *, calm_s: float = 60.0) -> None:
        """Wait until all is done, and note how much was looked at. Raises: AssertionError with what is wrong, and evidence."""
        began_s = time.monotonic()
        try:
            await self._calm(calm_s)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self._evidence([str(error)])])) from None
        finding.calmed(time.monotonic() - began_s)
        # In this thread: beside one that judges, agents would be too slow to beat, and be declared dead meanwhile.
        verdict = check(self.recorder.events, rules)
        dead = self.declared_dead()
        await self.cluster.wait_ready(READY_S)  # what stands between it and Redis stood still meanwhile
        finding.judged(verdict, len(dead), before=self._answered_for)
        self._answered_for = verdict.counts["tasks accepted"]
        finding.say(str(verdict))
        if verdict.violations or dead:
            raise AssertionError("\n".join([str(verdict), *self._evidence([*verdict.violations, *dead])]))

    def declared_dead(self) -> list[str]:
        """Agents that were declared offline while they were connected."""
        return list(declared_dead(self.recorder.events, time.time() - time.monotonic()))

    def forget(self) -> None:
        """Begin a new history, with the same agents connected. Between two judgements only."""
        self.recorder.forget()
        self.ledger.forget()
        self._answered_for = 0

    async def _calm(self, timeout_s: float) -> None:
        """Wait until every accepted task has ended and nothing is under way. Raises: AssertionError with what is left."""
        await self.fleet.connected(timeout_s)
        await eventually(self.ledger.unfinished, timeout_s, every_s=0.1)
        await self.fleet.settled(timeout_s)
        await eventually(self.left_behind, 30.0, every_s=0.2)
        await eventually(self._shown_otherwise, 30.0, every_s=0.2)
        await self._reader.caught_up()
        await self._group.caught_up()
        await eventually(self._shown_offline, _STATUS_S, every_s=1.0)
        wrong = [*unfinished_executions(self.recorder.events), *self.cries(), *self.leaks()]
        assert not wrong, "\n".join(wrong)

    def _evidence(self, wrong: Sequence[str]) -> Iterator[str]:
        """What is known of the ids in these lines."""
        history = self.folder / "history.jsonl"
        self.recorder.save(history)
        yield f"the history is in {history}, what the cluster said in {self.cluster.folder}"
        yield from excerpts(self.recorder.events, wrong)

    async def left_behind(self) -> list[str]:
        """What a cluster with nothing to do holds in Redis, and should not, or does not hold, and should."""
        async with Redis.from_url(self.redis.url, decode_responses=True) as client:
            held = {
                "mailboxes": sum([1 async for _ in client.scan_iter(f"{_SHARD}mail:*", count=1000)]),
                "tasks due": await client.zcard(f"{_SHARD}due"),
                "entries owed": await client.hlen(f"{_SHARD}unfed"),
                "owners": await client.hlen(f"{_SHARD}owners"),
                "leases to end": await client.zcard(f"{_SHARD}deadlines"),
            }
        agents = len(self.fleet.agents)
        wanted = {"owners": agents, "leases to end": agents}
        return [
            f"{count} {name}, not {wanted.get(name, 0)}" for name, count in held.items() if count != wanted.get(name, 0)
        ]

    async def _shown_otherwise(self) -> str:
        """How many agents the control plane is told are active, when it is not all of them."""
        answer: Any = (await self.control_plane.agents("status=active")).json()
        active, all_of_them = len(answer["agents"]), len(self.fleet.agents)
        return "" if active == all_of_them else f"{active} of {all_of_them} connected agents are shown as active"

    def _shown_offline(self) -> list[str]:
        """A node that dies right after a connect has not told of it; the next round of statuses does."""
        return list(shown_offline(self.recorder.events, (agent.agent_id for agent in self.fleet.agents)))[:5]

    def leaks(self) -> list[str]:
        """What the processes said that holds an agent's token."""
        texts = (path.read_text(errors="replace") for path in (self.cluster.stdout, self.cluster.stderr))
        return [f"a secret is told: {line[:500]}" for text in texts for line in text.splitlines() if SECRET in line]

    def cries(self) -> list[str]:
        """What the processes said that only a mistake of theirs makes them say."""
        said = self.cluster.stderr.read_text(errors="replace").splitlines()
        return [
            line[:2000] for line in said if "Traceback" in line or '"log.level":"error"' in line or "CRITICAL" in line
        ]
