"""Who owns an agent, on a real Redis against a plain model: two nodes claim, renew, release and go on late, whatever became of it meanwhile.

Leases run out, routers sweep, operators forget the agent, Redis comes back empty. After each step at most one session is accepted, the
newest, and what an older one asks for changes nothing. Beside the machine, races: claims, late releases and renewals of two nodes at once.
"""

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.errors import Refused, UnknownAgent, WrongToken
from cluster.mailbox import Take
from cluster.registry import (
    EXPIRED,
    REVOKED,
    TAKEN_OVER,
    UNKNOWN,
    Bid,
    Claim,
    Contested,
    Overdue,
    Owner,
    Profile,
    Release,
    Renewal,
)
from tests.faults.finding import Finding
from tests.integration.core import Core
from tests.support.machines import Machines
from tests.support.redis_server import RedisServer
from tests.support.said import Say

Run = Callable[[Coroutine[Any, Any, Any]], Any]

NODES = st.sampled_from(["n1", "n2"])
WHICH = st.sampled_from([0, 0, 0, 1, 1, 2, 3])  # how far back from the newest session
MAX_TAKEOVERS = 3
RESTART_S = 0.005  # a Redis that comes back empty was away for longer


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


@dataclass
class Model:
    """What there is to know of one agent."""

    is_known: bool = False
    is_revoked: bool = False
    incarnation: int = 0
    owner: str = ""
    has_lease: bool = False
    takeovers: int = 0
    claimed: list[Owner] = field(default_factory=list)

    def bid(self, *, force: bool) -> str:
        """How a claim is answered."""
        if self.is_revoked:
            return "revoked"
        if not self.is_known:
            return "unknown"
        if self.owner and self.has_lease:
            self.takeovers += 1
            if not force and self.takeovers > MAX_TAKEOVERS:
                return "contested"
        return "ok"

    def renewal(self, owner: Owner) -> int:
        """How a renewal is answered; 0 is granted."""
        if self.owner:
            return 0 if str(owner) == self.owner else TAKEN_OVER
        if self.is_revoked:
            return REVOKED
        return EXPIRED if self.is_known else UNKNOWN

    def release(self) -> None:
        self.owner, self.has_lease = "", False


class OwnershipMachine(RuleBasedStateMachine):
    """One agent, two nodes, and every session that they ever claimed."""

    def __init__(self, run: Run, redis: RedisServer) -> None:
        super().__init__()
        self._run = run
        prefix = f"test-{uuid.uuid4().hex[:12]}:"
        self.nodes = {name: Core(redis.url, prefix, shards=1) for name in ("n1", "n2")}
        self.model = Model()
        self._run(self._begin())
        self.registers("n1")
        for node in ("n1", "n2"):
            self.claims(node, force=True)
        self.model.takeovers = 1

    async def _begin(self) -> None:
        for node in self.nodes.values():
            await node.start()
        self.core = self.nodes["n1"]
        self.agent_id = self.core.registry.id_of("token-1")

    def teardown(self) -> None:
        for node in self.nodes.values():
            self._run(node.close())

    def session(self, back: int) -> Owner | None:
        return self.model.claimed[-1 - back] if back < len(self.model.claimed) else None

    def on(self, owner: Owner) -> Core:
        return self.nodes[owner.node]

    def key(self, name: str) -> str:
        return self.core.keys.in_shard(0, name)

    # ---- the agent

    @rule(node=NODES)
    def registers(self, node: str) -> None:
        if self.model.is_revoked:
            with pytest.raises(Refused):
                self._run(self.nodes[node].agent())
            return
        registered = self._run(self.nodes[node].registry.register("token-1", "web", 0, {}, {}, may_be_new=True))
        self.model.incarnation += 1
        assert registered.is_new is not self.model.is_known
        assert registered.incarnation == self.model.incarnation
        self.model.is_known = True

    @rule(node=NODES, force=st.booleans())
    def claims(self, node: str, force: bool) -> None:
        before, expected = self.model.owner, self.model.bid(force=force)
        bid = Bid(self.agent_id, node, f"boot-{node}", "192.0.2.1", "", force)
        (outcome,) = self._run(self.nodes[node].registry.claim([bid]))
        kinds = {"ok": Claim, "contested": Contested, "revoked": Refused, "unknown": UnknownAgent}
        assert type(outcome) is kinds[expected]
        if isinstance(outcome, Claim):
            assert (str(outcome.previous or ""), outcome.incarnation) == (before, self.model.incarnation)
            self._claimed(outcome.owner)
        elif isinstance(outcome, Contested):
            assert (str(outcome.holder), outcome.is_first) == (before, self.model.takeovers == MAX_TAKEOVERS + 1)

    @rule(node=NODES, force=st.booleans())
    def shows_another_token(self, node: str, force: bool) -> None:
        bid = Bid(self.agent_id, node, f"boot-{node}", "192.0.2.1", "another's", force)
        (outcome,) = self._run(self.nodes[node].registry.claim([bid]))
        known = WrongToken if self.model.is_known else UnknownAgent
        assert type(outcome) is (Refused if self.model.is_revoked else known)

    def _claimed(self, owner: Owner) -> None:
        assert all(owner.epoch > other.epoch for other in self.model.claimed), "an epoch is given out once"
        self.model.claimed.append(owner)
        self.model.owner, self.model.has_lease = str(owner), True

    # ---- what sessions ask for, soon or late

    @rule(back=WHICH, age_ms=st.sampled_from([0, 1000, 10**6]))
    def renews(self, back: int, age_ms: int) -> None:
        owner = self.session(back)
        if owner is not None:
            (outcome,) = self._run(self.on(owner).registry.renew([Renewal(self.agent_id, str(owner), age_ms, "0")]))
            assert outcome == self.model.renewal(owner)
            self.model.has_lease |= outcome == 0 and age_ms < 10**6  # one that was silent for too long renews nothing
            if outcome == UNKNOWN:
                self._run(self._put_back(owner))

    async def _put_back(self, owner: Owner) -> None:
        """As a node does whose Redis came back empty."""
        registry = self.on(owner).registry
        await registry.put_back([Profile(self.agent_id, "web", token_hash="hash", incarnation=self.model.incarnation)])
        self.model.is_known = True
        (outcome,) = await registry.claim([Bid(self.agent_id, owner.node, owner.boot, "192.0.2.1", "", force=True)])
        assert isinstance(outcome, Claim)
        assert (outcome.previous, outcome.incarnation) == (None, self.model.incarnation)
        self._claimed(outcome.owner)

    @rule(back=WHICH, if_expired=st.booleans())
    def releases(self, back: int, if_expired: bool) -> None:
        owner = self.session(back)
        if owner is not None:
            is_mine = str(owner) == self.model.owner and not (if_expired and self.model.has_lease)
            release = Release(self.agent_id, str(owner), "websocket_closed", 0, if_expired)
            (owed,) = self._run(self.on(owner).registry.release([release]))
            assert bool(owed) == is_mine, "a late release keeps the new owner"
            if is_mine:
                self.model.release()

    # ---- what happens to it

    @precondition(lambda self: self.model.has_lease)
    @rule()
    def lease_runs_out(self) -> None:
        self._run(self.core.redis.delete(self.core.keys.of_agent("lease", self.agent_id)))
        self.model.has_lease = False

    @rule()
    def router_sweeps(self) -> None:
        self._run(self._sweep())

    async def _sweep(self) -> None:
        await self.core.redis.zadd(self.key("deadlines"), {self.agent_id: 1})
        overdue = await self.core.registry.overdue(10)
        assert [str(item.owner) for item in overdue] == ([self.model.owner] if self.model.owner else [])
        owed = await self.core.registry.release([_verdict(item) for item in overdue])
        assert [bool(entry) for entry in owed] == [not self.model.has_lease for _ in overdue]
        if any(owed):
            self.model.release()
        left_ms = await self.core.redis.zscore(self.key("deadlines"), self.agent_id)
        assert (left_ms is not None) == bool(self.model.owner)
        assert left_ms is None or left_ms > self.core.store.now_ms()

    @rule()
    def half_a_minute_goes_by(self) -> None:
        """Of the window in which takeovers are counted."""
        if self.model.is_known:
            self._run(self.core.redis.hset(self.core.keys.of_agent("agent", self.agent_id), "takeover_at", 1))
            self.model.takeovers = 0

    @precondition(lambda self: self.model.is_known)
    @rule(means_it=st.sampled_from([False, False, False, True]))
    def operator_forgets_it(self, means_it: bool) -> None:
        if not means_it:  # most of the time, or there is little left to see
            return
        owner, offline, owed = self._run(self.core.registry.revoke(self.agent_id))
        assert (str(owner or ""), bool(offline), owed) == (self.model.owner, bool(self.model.owner), [])
        self.model.release()
        self.model.is_known, self.model.is_revoked = False, True

    @rule()
    def redis_comes_back_empty(self) -> None:
        self._run(self._flush())
        self.model.release()
        self.model.is_known = self.model.is_revoked = False
        self.model.incarnation = self.model.takeovers = 0

    async def _flush(self) -> None:
        await asyncio.sleep(RESTART_S)
        await self.core.redis.flushall()
        for node in self.nodes.values():
            await node.store.agree()

    # ---- what always holds

    @invariant()
    def one_owns_it_at_most(self) -> None:
        self._run(self._compare())

    async def _compare(self) -> None:
        owner = await self.core.redis.hget(self.key("owners"), self.agent_id)
        lease = await self.core.redis.get(self.core.keys.of_agent("lease", self.agent_id))
        assert (owner or "", lease or "") == (self.model.owner, self.model.owner if self.model.has_lease else "")
        late = self.model.claimed[-3:]
        accepted = [claimed for claimed in late if await self._may_write(claimed)]
        assert [str(claimed) for claimed in accepted] == ([self.model.owner] if self.model.owner else [])

    async def _may_write(self, owner: Owner) -> bool:
        """Whether it is handed tasks."""
        (delivery,) = await self.on(owner).mailbox.take([Take(self.agent_id, str(owner), 0, "0")])
        return delivery is not None


def _verdict(item: Overdue) -> Release:
    return Release(item.agent_id, str(item.owner), "heartbeat_timeout", item.silent_ms, if_expired=True)


def test_ownership_does_as_its_model(machines: Machines, run: Run, redis_server: RedisServer) -> None:
    machines.run("ownership", lambda: OwnershipMachine(run, redis_server), short=25, long=500, steps=40)


# ---- races


class Race:
    """Two nodes after one agent, again and again; each race begins where the last one ended."""

    def __init__(self, nodes: list[Core], agent_id: str, chance: random.Random) -> None:
        self.nodes = nodes
        self.agent_id = agent_id
        self.chance = chance
        self.owner: Owner | None = None
        self.refused = 0
        self.won_by_second = 0

    async def run_all(self, rounds: int) -> None:
        for _ in range(rounds):
            await self.run()

    async def run(self) -> None:
        before = self.owner
        late = [self._late(before), self._late(before)] if before else []
        claims, words = asyncio.gather(self._claim(0), self._claim(1)), asyncio.gather(*late)
        one, other = await claims
        await words
        first, last = sorted((one, other), key=lambda claim: claim.owner.epoch)
        assert before is None or first.owner.epoch > before.epoch
        assert last.previous == first.owner, "the newest takes it from the other"
        assert first.previous in (before, None)
        await self._judge(first.owner, last.owner)
        self.won_by_second += last is other
        self.owner = last.owner

    async def _claim(self, number: int) -> Claim:
        await self._falter()
        return await self.nodes[number].claim(self.agent_id, f"n{number}")

    async def _late(self, owner: Owner) -> None:
        """The session before says a last word, which may come at any moment."""
        await self._falter()
        core = self.chance.choice(self.nodes)
        if self.chance.random() < 0.5:
            await core.registry.release([Release(self.agent_id, str(owner), "websocket_closed", 0)])
        else:
            await core.registry.renew([Renewal(self.agent_id, str(owner), 0, "0")])

    async def _judge(self, loser: Owner, winner: Owner) -> None:
        """What both do next, at once: all of the loser's is refused, all of the winner's is granted."""
        refused, granted = await asyncio.gather(self._goes_on(0, loser), self._goes_on(1, winner))
        assert refused == (TAKEN_OVER, None, b"")
        assert granted[0] == 0
        assert granted[1] is not None
        self.refused += 1

    async def _goes_on(self, number: int, owner: Owner) -> tuple[Any, ...]:
        core = self.nodes[number]
        (renewed,) = await core.registry.renew([Renewal(self.agent_id, str(owner), 0, "0")])
        (delivery,) = await core.mailbox.take([Take(self.agent_id, str(owner), 0, "0")])
        if number:
            return renewed, delivery
        (owed,) = await core.registry.release([Release(self.agent_id, str(owner), "websocket_closed", 0)])
        return renewed, delivery, owed

    async def _falter(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)


@pytest.fixture
async def nodes(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[list[Core]]:
    nodes = [Core(redis_server.url, redis_prefix) for _ in range(2)]
    for node in nodes:
        await node.start()
    yield nodes
    for node in nodes:
        await node.close()


async def test_of_two_nodes_that_race_for_an_agent_the_newest_owns_it(
    nodes: list[Core], is_long: bool, finding: Finding, say: Say
) -> None:
    """Agents side by side, so that the races of one come between those of others."""
    agents, rounds = (20, 500) if is_long else (3, 50)
    seed = int(os.environ.get("FAULT_SEED") or (random.getrandbits(32) if is_long else 1))
    say(f"FAULT_SEED={seed}")
    finding.about(
        "F17", "two nodes claim one agent at once, while the session before goes on", f"{agents} agents at once"
    )
    finding.seed = str(seed)
    races = [Race(nodes, await nodes[0].agent(f"t-{number}"), random.Random(seed + number)) for number in range(agents)]
    async with asyncio.TaskGroup() as group:
        for race in races:
            group.create_task(race.run_all(rounds))
    refused = sum(race.refused for race in races)
    finding.struck(agents * rounds)
    finding.counted(
        "races won by the newest claim, and all that the loser asked for refused", refused, agents * rounds, "all"
    )
    finding.counted("of these by the second node", sum(race.won_by_second for race in races), refused)
    assert refused == agents * rounds
