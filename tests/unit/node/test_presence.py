"""Claims, leases and releases of a node's sessions: who is told to close, with which code, and when."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

from cluster import close_codes
from cluster.errors import PeerError, Refused, StoreUnavailable, UnknownAgent
from cluster.inbox import Inbox
from cluster.nodes import NodeDirectory
from cluster.registry import (
    EXPIRED,
    HAS_CANCELS,
    HAS_MAIL,
    REVOKED,
    TAKEN_OVER,
    UNKNOWN,
    Bid,
    Claim,
    Contested,
    Owner,
    Profile,
    Registry,
    Release,
    Renewal,
)
from node import presence as presence_module
from node.hub import Hub
from node.presence import AWAY_S, RENEW_ITEMS, SLICE, SOONEST_S, Presence, close_in_slices
from node.session import Session
from tests.support.eventually import eventually
from tests.unit.node.session_bench import AGENT, a_claim, a_session, link_of

OTHER = Owner("n2", "boot2", 4)


class FakeStore:
    """The registry, the inbox and the directory in memory."""

    timeout_ms = 30  # so that renewals come every 10 ms

    def __init__(self) -> None:
        self.bids: list[Bid] = []
        self.outcomes: list[Claim | Contested | PeerError] = []
        self.renewals: list[list[Renewal]] = []
        self.outcome = 0
        self.forgets = 0  # so many agents are unknown, once each
        self.unclaimed = 0  # so many claims go unanswered
        self.releases: list[Release] = []
        self.put_backs: list[Profile] = []
        self.closes: list[tuple[Owner, str, int]] = []
        self.beating: set[Owner] = set()
        self.away = False
        self.unanswered = 0

    def _answer(self) -> None:
        if self.away:
            self.unanswered += 1
            raise StoreUnavailable("away")

    async def claim(self, bids: Sequence[Bid]) -> list[Claim | Contested | PeerError]:
        self._answer()
        if self.unclaimed:
            self.unclaimed -= 1
            self.forgets += len(bids)
            raise StoreUnavailable("away")
        self.bids += bids
        return [self.outcomes.pop(0) for _ in bids]

    async def renew(self, renewals: Sequence[Renewal]) -> list[int]:
        self._answer()
        self.renewals.append(list(renewals))
        unknown = min(self.forgets, len(renewals))
        self.forgets -= unknown
        return [UNKNOWN] * unknown + [self.outcome] * (len(renewals) - unknown)

    async def release(self, releases: Sequence[Release]) -> list[bytes]:
        self._answer()
        self.releases += releases
        return [release.agent_id.encode() if release.reason != "not mine" else b"" for release in releases]

    async def put_back(self, profiles: Sequence[Profile]) -> None:
        self._answer()
        self.put_backs += profiles

    async def close(self, claims: Sequence[tuple[Owner, str]], code: int) -> None:
        self._answer()
        self.closes += [(owner, agent_id, code) for owner, agent_id in claims]

    async def is_beating(self, owner: Owner) -> bool:
        self._answer()
        return owner in self.beating


class Bench:
    def __init__(self, store: FakeStore | None = None) -> None:
        self.store = store or FakeStore()
        self.hub = Hub()
        self.mail: list[str] = []
        self.forgotten: list[tuple[str, int]] = []
        self.owed: list[bytes] = []
        self.counted: Counter[str] = Counter()
        self.presence = Presence(
            "n1", "boot", self.hub, cast("Registry", self.store), cast("Inbox", self.store),
            cast("NodeDirectory", self.store), on_mail=lambda session: self.mail.append(session.agent_id),
            on_forgotten=lambda session: self.forgotten.append((session.agent_id, session.epoch)), on_release=self.owed.append, count=self.count,
        )  # fmt: skip

    def count(self, event: str) -> None:
        self.counted[event] += 1

    def started(self, agent_id: str = AGENT, epoch: int = 5, previous: Owner | None = None) -> Session:
        session = a_session(agent_id=agent_id, claim=a_claim(epoch, previous=previous))
        self.presence.start(session, previous)
        return session

    @asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        renewal = asyncio.create_task(self.presence.renew())
        try:
            yield
        finally:
            renewal.cancel()
            ended = await asyncio.gather(renewal, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError)
        await asyncio.wait_for(self.presence.settled(), 5)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "RETRY_S", 0.001)


# ---- begin ----


async def test_a_claim_names_this_process_and_the_agents_address(bench: Bench) -> None:
    bench.store.outcomes = [a_claim(5)]
    assert await bench.presence.claim(AGENT, "192.0.2.1", "hash") == a_claim(5)
    assert bench.store.bids == [Bid(AGENT, "n1", "boot", "192.0.2.1", "hash")]


async def test_claims_that_come_together_share_a_call(bench: Bench) -> None:
    bench.store.outcomes = [a_claim(n) for n in range(5)]
    claims = await asyncio.gather(*(bench.presence.claim(f"a{n}", "", "hash") for n in range(5)))
    assert [bid.agent_id for bid in bench.store.bids] == [f"a{n}" for n in range(5)]
    assert claims == [a_claim(n) for n in range(5)]


@pytest.mark.parametrize("error", [UnknownAgent("no such agent"), Refused("revoked")], ids=repr)
async def test_a_claim_that_redis_refuses_is_raised_to_who_made_it_and_no_other(bench: Bench, error: PeerError) -> None:
    bench.store.outcomes = [error, a_claim(5)]
    refused, granted = await asyncio.gather(
        bench.presence.claim("a", "", "hash"), bench.presence.claim("b", "", "hash"), return_exceptions=True
    )
    assert (refused, granted) == (error, a_claim(5))


async def test_without_redis_nobody_is_claimed(bench: Bench) -> None:
    bench.store.away = True
    with pytest.raises(StoreUnavailable):
        await bench.presence.claim(AGENT, "", "hash")


async def test_a_contested_agent_stays_where_its_holder_lives(bench: Bench) -> None:
    contested = Contested("192.0.2.9", OTHER, is_first=True)
    bench.store.outcomes = [contested]
    bench.store.beating = {OTHER}
    assert await bench.presence.claim(AGENT, "", "hash") == contested


async def test_a_contested_agent_is_taken_from_a_holder_that_is_dead(bench: Bench) -> None:
    bench.store.outcomes = [Contested("192.0.2.9", OTHER, is_first=True), a_claim(5)]
    assert await bench.presence.claim(AGENT, "", "hash") == a_claim(5)
    assert [bid.force for bid in bench.store.bids] == [False, True]


async def test_a_predecessor_in_another_process_is_told_to_close(bench: Bench) -> None:
    session = bench.started(previous=OTHER)
    await bench.presence.settled()
    assert bench.store.closes == [(OTHER, AGENT, close_codes.REPLACED)]
    assert bench.hub.get(AGENT) is session


async def test_a_predecessor_of_the_same_name_and_another_boot_is_another_process(bench: Bench) -> None:
    bench.started(previous=Owner("n1", "earlier boot", 4))
    await bench.presence.settled()
    assert len(bench.store.closes) == 1


async def test_a_predecessor_in_this_process_is_closed_here(bench: Bench) -> None:
    older = bench.started(epoch=4)
    bench.started(epoch=5, previous=Owner("n1", "boot", 4))
    await bench.presence.settled()
    assert link_of(older).closed == [close_codes.REPLACED]
    assert bench.store.closes == []


async def test_a_predecessor_that_cannot_be_told_is_left_to_its_own_renewal(bench: Bench) -> None:
    bench.store.away = True
    bench.started(previous=OTHER)
    await bench.presence.settled()


# ---- stay ----


async def test_leases_are_renewed_again_and_again_with_the_age_of_what_was_heard(bench: Bench) -> None:
    session = bench.started()
    link_of(session).wheel.now = 7
    session.cancels = "3"
    async with bench.renewing():
        await eventually(lambda: len(bench.store.renewals) < 3)
    assert bench.store.renewals[0] == [Renewal(AGENT, "n1:boot:5", 7000, "3")]
    assert link_of(session).closed == []


@pytest.mark.parametrize(
    ("silent_s", "next_s"),
    [(0, 20.0), (20, 20.0), (30, 10.0), (48, 4.0), (59, SOONEST_S), (600, SOONEST_S)],
)
async def test_who_was_silent_for_long_is_due_when_a_third_of_its_lease_has_passed_or_a_second_later(
    silent_s: int, next_s: float
) -> None:
    store = FakeStore()
    store.timeout_ms = 60_000
    bench = Bench(store)
    session = bench.started()
    link_of(session).wheel.now = silent_s
    async with bench.renewing():
        await eventually(lambda: not store.renewals)
        [(due_s, _, _)] = bench.presence._queue
    assert due_s - asyncio.get_running_loop().time() == pytest.approx(next_s, abs=0.5)


async def test_many_renewals_are_one_call_and_a_call_is_bounded(bench: Bench) -> None:
    for n in range(RENEW_ITEMS + 1):
        bench.started(f"a{n}")
    last_due = bench.presence._queue[-1][0]
    await eventually(lambda: asyncio.get_running_loop().time() < last_due)
    async with bench.renewing():
        await eventually(lambda: len(bench.store.renewals) < 2)
    assert [len(call) for call in bench.store.renewals[:2]] == [RENEW_ITEMS, 1]


@pytest.mark.parametrize("gone", ["lost", "replaced"])
async def test_who_is_gone_is_not_renewed(bench: Bench, gone: str) -> None:
    session = bench.started()
    if gone == "lost":
        session.on_lost()
        bench.hub.discard(session)
    else:
        bench.started(epoch=6)
    async with bench.renewing():
        bench.started("other")
        await eventually(lambda: not bench.store.renewals)
    assert "n1:boot:5" not in [item.owner for call in bench.store.renewals for item in call if item.agent_id == AGENT]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (TAKEN_OVER, close_codes.REPLACED),
        (EXPIRED, close_codes.HEARTBEAT_TIMEOUT),
        (REVOKED, close_codes.REVOKED),
    ],
)
async def test_who_lost_its_lease_is_closed_and_renewed_no_more(bench: Bench, outcome: int, code: int) -> None:
    session = bench.started()
    bench.store.outcome = outcome
    async with bench.renewing():
        await eventually(lambda: link_of(session).closed != [code])
        bench.store.outcome = 0
        bench.started("other")
        await eventually(lambda: len(bench.store.renewals) < 2)
    assert [item.agent_id for call in bench.store.renewals[1:] for item in call] == ["other"] * (
        len(bench.store.renewals) - 1
    )
    assert bench.counted == {"lease_lost": 1}


@pytest.mark.parametrize("flags", [HAS_MAIL, HAS_CANCELS, HAS_MAIL | HAS_CANCELS])
async def test_what_waits_for_an_agent_is_found_by_renewal(bench: Bench, flags: int) -> None:
    bench.started()
    bench.store.outcome = flags
    async with bench.renewing():
        await eventually(lambda: not bench.mail)
    assert set(bench.mail) == {AGENT}


async def test_where_nothing_waits_nobody_is_rung(bench: Bench) -> None:
    bench.started()
    async with bench.renewing():
        await eventually(lambda: len(bench.store.renewals) < 2)
    assert bench.mail == []


async def test_an_agent_that_redis_forgot_is_registered_and_claimed_again_under_a_newer_epoch(bench: Bench) -> None:
    session = bench.started()
    session.cancels = "3"
    bench.store.forgets = 1
    bench.store.outcomes = [a_claim(9)]
    async with bench.renewing():
        await eventually(lambda: session.epoch != 9)
        await eventually(lambda: bench.store.renewals[-1][0] != Renewal(AGENT, "n1:boot:9", 0, "0"))
    assert bench.store.put_backs == [session.profile]
    assert bench.store.bids == [Bid(AGENT, "n1", "boot", "192.0.2.1", "", force=True)]
    assert link_of(session).closed == []
    assert bench.forgotten == [(AGENT, 5)]  # what it was sent is told as lost, whatever becomes of the claim
    assert bench.mail == [AGENT]  # what was posted before it was claimed again


async def test_a_redis_that_forgot_and_goes_away_again_makes_no_renewal_twice(bench: Bench) -> None:
    sessions = [bench.started(f"a{n}") for n in range(3)]
    bench.store.forgets, bench.store.unclaimed = 2, 2
    bench.store.outcomes = [a_claim(9)] * 9
    async with bench.renewing():
        await eventually(lambda: bench.store.unclaimed)
        await eventually(lambda: len(bench.store.renewals) < 8)
    assert len(bench.presence._queue) <= len(sessions)


async def test_an_empty_redis_is_seen_long_before_any_lease_is_due(bench: Bench) -> None:
    bench.store.timeout_ms = 3_600_000
    bench = Bench(bench.store)
    first, others = bench.started("a0"), [bench.started(f"a{n}") for n in range(1, 4)]
    async with bench.renewing():
        await eventually(lambda: not bench.store.renewals)
        assert [item.agent_id for item in bench.store.renewals[0]] == [first.agent_id]
        bench.store.forgets = len(others)
        bench.store.outcomes = [a_claim(9)] * len(others)
        await eventually(lambda: [other.agent_id for other in others if other.epoch != 9])


async def test_an_agent_that_was_revoked_meanwhile_is_not_put_back(bench: Bench) -> None:
    session = bench.started()
    bench.store.outcome = UNKNOWN
    bench.store.outcomes = [Refused("revoked")]
    async with bench.renewing():
        await eventually(lambda: link_of(session).closed != [close_codes.REVOKED])


async def test_while_redis_is_away_sockets_stay_open_and_the_leases_are_renewed_on_its_return(bench: Bench) -> None:
    session = bench.started()
    bench.store.away = True
    async with bench.renewing():
        await eventually(lambda: bench.store.unanswered < 3)
        assert (link_of(session).closed, bench.presence.is_away_too_long) == ([], False)
        bench.store.away = False
        await eventually(lambda: not bench.store.renewals)
    assert [item.agent_id for item in bench.store.renewals[0]] == [AGENT]


async def test_when_redis_is_away_for_too_long_sockets_are_closed_so_that_outboxes_take_over(bench: Bench) -> None:
    sessions = [bench.started(f"a{n}") for n in range(3)]
    bench.store.away = True
    async with bench.renewing():
        await eventually(lambda: not bench.store.unanswered)
        assert [link_of(session).closed for session in sessions] == [[], [], []]
        bench.presence._answered -= AWAY_S + 1
        assert bench.presence.is_away_too_long
        await eventually(lambda: [s.agent_id for s in sessions if link_of(s).closed[:1] != [close_codes.RESTARTING]])


async def test_an_idle_node_is_never_away_for_too_long(bench: Bench) -> None:
    bench.presence._answered -= AWAY_S + 1
    async with bench.renewing():
        await eventually(lambda: bench.presence.is_away_too_long)


# ---- go ----


async def test_a_closed_socket_releases_its_claim_with_its_age_and_pays_what_is_owed(bench: Bench) -> None:
    session = bench.started()
    link_of(session).wheel.now = 3
    session.close(close_codes.RESTARTING, "drained")
    session.on_lost()
    bench.presence.end(session)
    await bench.presence.settled()
    assert bench.store.releases == [Release(AGENT, "n1:boot:5", "drained", 3000)]
    assert bench.owed == [AGENT.encode()]
    assert bench.hub.get(AGENT) is None


async def test_a_claim_that_was_no_longer_ours_owes_nothing(bench: Bench) -> None:
    session = bench.started()
    session.close(close_codes.REPLACED, "not mine")
    bench.presence.end(session)
    await bench.presence.settled()
    assert bench.owed == []


async def test_releases_that_come_together_share_a_call_and_one_without_redis_is_left_to_the_lease(
    bench: Bench,
) -> None:
    sessions = [bench.started(f"a{n}") for n in range(3)]
    for session in sessions:
        bench.presence.end(session)
    await bench.presence.settled()
    assert [release.agent_id for release in bench.store.releases] == ["a0", "a1", "a2"]
    bench.store.away = True
    bench.presence.end(bench.started("a4"))
    await bench.presence.settled()


async def test_sockets_are_closed_a_slice_at_a_time() -> None:
    sessions = [a_session(agent_id=f"a{n}") for n in range(2 * SLICE + 1)]
    closing = asyncio.create_task(close_in_slices(sessions, close_codes.RESTARTING, "drained", per_s=100 * SLICE))
    seen = set()
    while not closing.done():
        await asyncio.sleep(0)
        seen.add(sum(link_of(session).closed == [close_codes.RESTARTING] for session in sessions))
    assert seen - {0} == {SLICE, 2 * SLICE, 2 * SLICE + 1}
    assert {session.reason for session in sessions} == {"drained"}
