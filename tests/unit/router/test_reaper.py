"""When a router may sweep: never so that a slow Redis, a stall or a leap of its clock makes living agents look dead."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster import close_codes
from cluster.errors import FeedBlocked, StoreUnavailable
from cluster.registry import Overdue, Owner, Release
from router import reaper as reaper_module
from router.reaper import FIRST_GRACE_S, SLOW_S, SWEEP_S, Reaper
from tests.support.eventually import eventually

TIMEOUT_S = 60.0
LIVING, DEAD = Owner("n1", "boot-1", 5), Owner("n2", "boot-2", 6)


@dataclass
class Clocks:
    """The process's own clock and that of Redis, both turned by hand."""

    own_s: float = 1000.0
    redis_s: float = 5000.0

    def monotonic(self) -> float:
        return self.own_s

    def pass_time(self, seconds: float) -> None:
        self.own_s += seconds
        self.redis_s += seconds


class FakeStore:
    """The store, the rooms and the trimmer in memory: what was asked of them, in order."""

    timeout_ms = int(TIMEOUT_S * 1000)

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self.keys = SimpleNamespace(shards=1, in_shard=lambda _, name: name)
        self.round_trip_s = 0.001
        self.is_away = self.is_blocked = False
        self.late: list[Overdue] = []
        self.releases: list[Release] = []
        self.closes: list[tuple[list[tuple[Owner, str]], int]] = []
        self.paid: list[bytes] = []
        self.asked: list[str] = []

    def now_ms(self) -> int:
        return int(self._clocks.redis_s * 1000)

    async def sync_clock(self) -> float:
        if self.is_away:
            raise StoreUnavailable("away")
        self._clocks.pass_time(self.round_trip_s)
        return self.round_trip_s

    async def overdue(self, limit: int) -> list[Overdue]:
        self.asked.append("overdue")
        late, self.late = self.late[:limit], self.late[limit:]
        return late

    async def release(self, releases: Sequence[Release]) -> list[bytes]:
        self.releases += releases
        return [b"" if release.agent_id.startswith("kept") else release.agent_id.encode() for release in releases]

    async def close(self, claims: Sequence[tuple[Owner, str]], code: int) -> None:
        self.closes.append((list(claims), code))

    async def pay_offline(self, owed: Sequence[bytes]) -> None:
        self.paid += owed

    async def pay_results(self, owed: Sequence[bytes]) -> None:
        self.paid += owed

    async def end_due(self, _: int) -> list[bytes]:
        self.asked.append("end_due")
        if self.is_blocked:
            raise FeedBlocked("agent_results is not a stream")
        return []

    async def trim(self) -> int:
        self.asked.append("trim")
        return 0

    async def forget_stale(self, _: int) -> list[str]:
        self.asked.append("forget_stale")
        return ["agent-9"]

    async def forget_agents(self, agent_ids: Sequence[str]) -> None:
        self.asked.append(f"forget {list(agent_ids)}")

    async def pay(self, _: float) -> int:
        self.asked.append("pay")
        return 0


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clocks = Clocks()
        monkeypatch.setattr(reaper_module, "time", self.clocks)
        monkeypatch.setattr(reaper_module, "SWEEP_S", 0.001)
        self.store = FakeStore(self.clocks)
        self.counts = dict.fromkeys(
            ("lease_expired", "task_overdue", "entry_paid", "entry_trimmed", "agent_forgotten"), 0
        )
        store = cast("Any", self.store)
        self.reaper = Reaper(
            store, store, store, store, store, store, is_alive=lambda owner: owner == LIVING, counts=self.counts
        )
        self.reaper._debts = store

    async def may_sweep(self) -> bool:
        return await self.reaper._may_sweep()

    async def sweeps(self, seconds: float) -> float:
        """After how many seconds, of these, it sweeps."""
        for n in range(int(seconds / SWEEP_S)):
            if await self.may_sweep():
                return n * SWEEP_S
            self.clocks.pass_time(SWEEP_S)
        return seconds

    async def settled(self) -> None:
        """A router that has been sweeping for a while."""
        self.clocks.pass_time(FIRST_GRACE_S)
        assert await self.may_sweep()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loop = asyncio.create_task(self.reaper.run())
        try:
            yield
        finally:
            loop.cancel()
            (ended,) = await asyncio.gather(loop, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


# ---- when ----


async def test_a_router_that_starts_gives_nodes_the_time_to_renew_first(bench: Bench) -> None:
    assert await bench.sweeps(60) == pytest.approx(FIRST_GRACE_S, abs=2 * SWEEP_S)


async def test_a_quick_redis_is_swept_again_and_again(bench: Bench) -> None:
    await bench.settled()
    assert [await bench.sweeps(1) for _ in range(5)] == [0.0] * 5


async def test_no_sweep_while_the_round_trip_is_slow(bench: Bench) -> None:
    await bench.settled()
    bench.store.round_trip_s = SLOW_S + 0.1
    assert [await bench.may_sweep() for _ in range(5)] == [False] * 5


@pytest.mark.parametrize(("stall_s", "grace_s"), [(1.5, FIRST_GRACE_S), (10.0, 10.0), (1000.0, TIMEOUT_S)])
async def test_after_a_stall_leases_get_as_long_as_it_was_within_bounds(
    bench: Bench, stall_s: float, grace_s: float
) -> None:
    await bench.settled()
    bench.store.round_trip_s = stall_s
    assert not await bench.may_sweep()
    bench.store.round_trip_s = 0.001
    assert await bench.sweeps(2000) == pytest.approx(grace_s, abs=1.0)


async def test_a_short_stall_takes_nothing_from_what_a_longer_one_gave(bench: Bench) -> None:
    await bench.settled()
    for stall_s in (20.0, SLOW_S + 0.1):
        bench.store.round_trip_s = stall_s
        assert not await bench.may_sweep()
        bench.store.round_trip_s = 0.001
        assert not await bench.may_sweep()
    assert await bench.sweeps(60) == pytest.approx(20, abs=2.0)


async def test_a_redis_that_was_away_is_a_stall(bench: Bench) -> None:
    await bench.settled()
    bench.store.is_away = True
    async with bench.running():
        await eventually(lambda: bench.reaper._stalled_since is None)
        bench.clocks.pass_time(20)
        bench.store.is_away = False
        await eventually(lambda: bench.reaper._stalled_since is not None)
    assert bench.store.asked == []
    assert await bench.sweeps(60) == pytest.approx(20, abs=2.0)


@pytest.mark.parametrize("leap_s", [3600.0, -3600.0, 2.0])
async def test_a_leap_of_redis_clock_ends_no_lease(bench: Bench, leap_s: float) -> None:
    await bench.settled()
    bench.clocks.redis_s += leap_s
    assert not await bench.may_sweep()
    assert await bench.sweeps(60) >= FIRST_GRACE_S - 2 * SWEEP_S


async def test_a_clock_that_drifts_is_none_that_leaps(bench: Bench) -> None:
    await bench.settled()
    for _ in range(100):
        bench.clocks.pass_time(SWEEP_S)
        bench.clocks.redis_s += 0.01
        assert await bench.may_sweep()


async def test_all_works_are_done_and_go_on_after_redis_was_away(bench: Bench) -> None:
    works = {"overdue", "end_due", "pay", "trim", "forget_stale", "forget ['agent-9']"}
    await bench.settled()
    async with bench.running():
        await eventually(lambda: works - set(bench.store.asked))
        bench.store.is_away = True
        await eventually(lambda: bench.reaper._stalled_since is None)
        bench.store.is_away = False
        await eventually(lambda: bench.reaper._stalled_since is not None)
        bench.clocks.pass_time(TIMEOUT_S)
        bench.store.asked.clear()
        await eventually(lambda: works - set(bench.store.asked))
    assert bench.counts["agent_forgotten"] >= 2


async def test_a_blocked_feed_is_no_stall_and_keeps_no_other_work_from_being_done(bench: Bench) -> None:
    works = {"overdue", "end_due", "pay", "trim", "forget_stale"}
    await bench.settled()
    bench.store.is_blocked = True
    async with bench.running():
        for _ in range(3):
            bench.store.asked.clear()
            bench.clocks.pass_time(SWEEP_S * 100)
            await eventually(lambda: works - set(bench.store.asked))
    assert bench.reaper._stalled_since is None


# ---- what ----


async def test_an_expired_lease_is_called_by_whether_its_node_lives(bench: Bench) -> None:
    bench.store.late = [Overdue("a", LIVING, 61_000), Overdue("b", DEAD, 62_000)]
    await bench.reaper._expire_leases()
    assert bench.store.releases == [
        Release("a", str(LIVING), "heartbeat_timeout", 61_000, if_expired=True),
        Release("b", str(DEAD), "node_lost", 62_000, if_expired=True),
    ]
    assert bench.store.paid == [b"a", b"b"]
    assert bench.counts["lease_expired"] == 2


async def test_living_nodes_are_told_to_close_what_expired_and_nobody_else(bench: Bench) -> None:
    bench.store.late = [Overdue("a", LIVING, 0), Overdue("b", DEAD, 0), Overdue("kept", LIVING, 0)]
    await bench.reaper._expire_leases()
    assert bench.store.closes == [([(LIVING, "a")], close_codes.HEARTBEAT_TIMEOUT)]
    assert bench.store.paid == [b"a", b"b"]
    assert bench.counts["lease_expired"] == 2


async def test_of_many_expired_leases_all_are_ended_in_one_sweep(bench: Bench) -> None:
    bench.store.late = [Overdue(f"a{n}", DEAD, 0) for n in range(3 * reaper_module.LIMIT + 1)]
    await bench.reaper._expire_leases()
    assert len(bench.store.paid) == 3 * reaper_module.LIMIT + 1


async def test_where_nothing_expired_nothing_is_asked(bench: Bench) -> None:
    await bench.reaper._expire_leases()
    assert (bench.store.releases, bench.store.closes, bench.store.paid) == ([], [], [])
