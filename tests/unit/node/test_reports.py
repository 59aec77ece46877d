"""What the control plane reads of agents that come, stay and go, to the field; and how often."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from cluster.errors import FeedBlocked, StoreUnavailable
from cluster.feeds import Feeds, Offline, StatusEntry
from cluster.registry import Profile
from node.reports import BATCH, Reports
from node.session import Session, Tally
from tests.support.eventually import eventually
from tests.unit.node.session_bench import AGENT, NOW_MS, a_session, encode, link_of

NEVER = 10_000.0


class FakeFeeds:
    """The status feed and that of statistics in memory; `away` is how many calls go unanswered."""

    def __init__(self) -> None:
        self.statuses: list[StatusEntry] = []
        self.stats: list[tuple[str, ...]] = []
        self.calls: list[int] = []
        self.stats_calls: list[int] = []
        self.paid_for: list[StatusEntry] = []
        self.away = 0

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")

    async def append_status(self, entries: Sequence[StatusEntry]) -> None:
        if entries:
            self._answer()
            self.calls.append(len(entries))
            self.statuses += entries

    async def paid(self, entries: Sequence[StatusEntry]) -> None:
        if entries:
            self._answer()
            self.paid_for += entries

    async def append_stats(self, entries: Sequence[tuple[str, ...]]) -> None:
        if entries:
            self._answer()
            self.stats_calls.append(len(entries))
            self.stats += entries


class Bench:
    def __init__(self, status_s: float = NEVER, stats_s: float = NEVER) -> None:
        self.feeds = FakeFeeds()
        self.reports = Reports(cast("Feeds", self.feeds), lambda: NOW_MS, status_s, stats_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loop = asyncio.create_task(self.reports.run())
        try:
            yield
        finally:
            loop.cancel()
            ended = await asyncio.gather(loop, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError)

    def ended(self, session: Session, *ends: tuple[str, int | None]) -> None:
        """Tasks of this session ended so, after so many ms."""
        session.tally = session.tally or Tally()
        for status, duration_ms in ends:
            session.tally.count(status, duration_ms)
            self.reports.on_end_of_task(session)


def pairs(flat: Sequence[str]) -> dict[str, str]:
    assert len(set(flat[::2])) == len(flat) // 2
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def online(session: Session) -> dict[str, str]:
    bench = Bench()
    bench.reports.on_start(session, is_takeover=False)
    await bench.reports.flush()
    (entry,) = bench.feeds.statuses
    assert (entry.agent_id, entry.epoch, entry.kind) == (AGENT, "5", "on")
    return pairs(entry.fields)


def with_heartbeat(payload: bytes, profile: Profile | None = None) -> Session:
    session = a_session(profile=profile)
    session.heartbeat = payload
    return session


# ---- online ----


async def test_an_agent_that_came_is_online_with_what_is_known() -> None:
    profile = Profile(AGENT, "web", 7, hostname="web-1", os="linux", arch="amd64")
    session = a_session(profile=profile)
    link_of(session).wheel.now = 2
    assert await online(session) == {
        "agent_id": AGENT, "agent_name": "web", "host_id": "7", "status": "online",
        "last_heartbeat": str(NOW_MS - 2000), "timestamp": str(NOW_MS), "hostname": "web-1", "os": "linux",
        "arch": "amd64",
    }  # fmt: skip


async def test_what_is_not_known_is_left_out() -> None:
    assert await online(a_session(profile=Profile(AGENT))) == {
        "agent_id": AGENT, "agent_name": "", "host_id": "0", "status": "online", "last_heartbeat": str(NOW_MS),
        "timestamp": str(NOW_MS),
    }  # fmt: skip


SYSTEM = {
    "hostname": "web-2", "os": "bsd", "arch": "arm64", "cpu_usage": 12.5, "memory_usage": 50,
    "memory_total": 17_179_869_184, "memory_used": 8_589_934_592, "disk_usage": {"/": 71.5}, "load_avg": [0.5, 1, 2.25],
    "uptime": 86_400,
}  # fmt: skip


async def test_a_heartbeat_says_how_the_host_is_in_the_shape_that_the_control_plane_reads() -> None:
    profile = Profile(AGENT, "web", hostname="web-1", os="linux")
    fields = await online(with_heartbeat(encode({"timestamp": 5, "system": SYSTEM}), profile))
    assert (fields["hostname"], fields["os"], fields["arch"]) == ("web-2", "bsd", "arm64")
    assert json.loads(fields["system"]) == {
        "cpu_usage": 12.5, "memory": {"usage": 50, "total": 17_179_869_184, "used": 8_589_934_592},
        "disk": {"/": 71.5}, "load_avg": {"1m": 0.5, "5m": 1, "15m": 2.25}, "uptime": 86_400,
    }  # fmt: skip


async def test_numbers_are_passed_on_as_they_came() -> None:
    """A consumer that asks for bytes as an integer finds one."""
    fields = await online(with_heartbeat(encode({"system": SYSTEM})))
    assert '"total":17179869184,' in fields["system"]
    assert '"uptime":86400' in fields["system"]
    assert '"cpu_usage":12.5' in fields["system"]


async def test_a_heartbeat_that_says_little_is_filled_up() -> None:
    fields = await online(with_heartbeat(b'{"system":{"load_avg":[1.5],"cpu_usage":null}}'))
    assert json.loads(fields["system"]) == {
        "cpu_usage": 0, "memory": {"usage": 0, "total": 0, "used": 0}, "disk": {},
        "load_avg": {"1m": 1.5, "5m": 0, "15m": 0}, "uptime": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"5", b"{}", b'{"system":null}', b'{"system":{"cpu_usage":"x"}}', b'{"system":5}', b"[" * 10_000],
    ids=lambda payload: payload[:20].decode() or "nothing",
)
async def test_a_heartbeat_without_a_system_tells_nothing_of_it(payload: bytes) -> None:
    assert "system" not in await online(with_heartbeat(payload))


@pytest.mark.parametrize("disk", [71.5, [{"path": "/", "used": 1}], {"/": 10**30}, "x", 1e300], ids=str)
async def test_a_disks_usage_is_passed_on_whatever_its_shape(disk: Any) -> None:
    fields = await online(with_heartbeat(json.dumps({"system": {"disk_usage": disk}}).encode()))
    assert json.loads(fields["system"])["disk"] == disk


@pytest.mark.parametrize(("is_takeover", "kind"), [(False, "on"), (True, "over")])
async def test_a_takeover_leaves_it_to_the_feed_whether_it_is_told(is_takeover: bool, kind: str) -> None:
    bench = Bench()
    bench.reports.on_start(a_session(), is_takeover=is_takeover)
    await bench.reports.flush()
    assert [status.kind for status in bench.feeds.statuses] == [kind]


async def test_an_agent_that_stays_is_told_of_at_every_interval_also_after_a_takeover() -> None:
    bench = Bench(status_s=0.01)
    session = a_session()
    async with bench.running():
        bench.reports.on_start(session, is_takeover=True)
        await eventually(lambda: len(bench.feeds.statuses) < 3)
        session.on_lost()
        told = len(bench.feeds.statuses)
        await eventually(lambda: bench.reports._queue)
    assert len(bench.feeds.statuses) <= told + 1  # one may have been on its way


async def test_with_an_interval_heartbeats_are_not_told() -> None:
    bench = Bench()
    bench.reports.on_heartbeat(a_session())
    await bench.reports.flush()
    assert bench.feeds.statuses == []


async def test_with_an_interval_of_0_every_heartbeat_is_told_and_nothing_else() -> None:
    bench = Bench(status_s=0)
    session = a_session()
    bench.reports.on_start(session, is_takeover=False)
    for _ in range(3):
        bench.reports.on_heartbeat(session)
    await bench.reports.flush()
    assert len(bench.feeds.statuses) == 4
    assert not bench.reports._queue


async def test_many_statuses_are_written_a_batch_a_call_in_order() -> None:
    bench = Bench()
    for n in range(BATCH + 1):
        bench.reports.on_start(a_session(agent_id=f"a{n}"), is_takeover=False)
    await bench.reports.flush()
    assert bench.feeds.calls == [BATCH, 1]
    assert [entry.agent_id for entry in bench.feeds.statuses] == [f"a{n}" for n in range(BATCH + 1)]


async def test_what_redis_does_not_take_is_written_when_it_does() -> None:
    bench = Bench()
    bench.feeds.away = 2
    async with bench.running():
        bench.reports.on_start(a_session(), is_takeover=False)
        bench.ended(a_session(), ("success", None))
        await eventually(lambda: not bench.feeds.statuses)
    assert bench.feeds.away == 0


async def test_a_blocked_status_feed_keeps_no_statistics_back(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    async def blocked(_: object) -> None:
        raise FeedBlocked("agent_status is not a stream")

    monkeypatch.setattr(bench.feeds, "append_status", blocked)
    bench.reports.on_start(a_session(), is_takeover=False)
    bench.ended(a_session(), ("success", None))
    await bench.reports.flush()
    assert len(bench.feeds.stats) == 1


# ---- offline ----


def an_offline(epoch: str = "5") -> bytes:
    return encode(Offline(AGENT, "web", "7", "websocket_closed", str(NOW_MS), str(NOW_MS), "", "", "", epoch))


async def test_an_agent_that_goes_at_once_is_told_online_first_and_nothing_is_owed() -> None:
    bench = Bench()
    bench.reports.on_start(a_session(), is_takeover=False)
    bench.reports.on_release(an_offline())
    await bench.reports.flush()
    assert [(entry.epoch, entry.kind) for entry in bench.feeds.statuses] == [("5", "on"), ("5", "off")]
    assert pairs(bench.feeds.statuses[1].fields)["disconnect_reason"] == "websocket_closed"
    assert [entry.owed_as for entry in bench.feeds.paid_for] == [f"s:{AGENT}:5"]


async def test_what_was_written_and_not_marked_paid_is_left_to_who_pays_debts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.reports.on_start(a_session(), is_takeover=False)
    bench.reports.on_release(an_offline())

    async def unanswered(_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(bench.feeds, "paid", unanswered)
    await bench.reports.flush()
    await bench.reports.flush()
    assert [entry.kind for entry in bench.feeds.statuses] == ["on", "off"]


# ---- statistics ----


async def stats_of(*ends: tuple[str, int | None]) -> dict[str, str]:
    bench = Bench()
    bench.ended(a_session(), *ends)
    await bench.reports.flush()
    (entry,) = bench.feeds.stats
    return pairs(entry)


async def test_statistics_count_all_ends_since_the_connection_began() -> None:
    ends = [("success", 1000), ("success", 2000), ("success", None), ("failed", 1500), ("cancelled", None)]
    assert await stats_of(*ends) == {
        "agent_id": AGENT, "total": "5", "success": "3", "failed": "1", "cancelled": "1", "avg_duration_ms": "1500",
        "success_rate": "60", "timestamp": str(NOW_MS),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "average", "rate"),
    [
        ([("failed", None)], "0", "0"),
        ([("success", 25), ("failed", 0)], "12.5", "50"),
        ([("success", 1), ("success", 0), ("failed", 0)], repr(1 / 3), repr(200 / 3)),
    ],
)
async def test_numbers_are_written_as_go_writes_them(
    ends: list[tuple[str, int | None]], average: str, rate: str
) -> None:
    fields = await stats_of(*ends)
    assert (fields["avg_duration_ms"], fields["success_rate"]) == (average, rate)


async def test_statistics_are_pushed_at_every_interval_for_agents_that_changed() -> None:
    bench = Bench(stats_s=0.01)
    changed, idle = a_session(), a_session(agent_id="idle")
    idle.tally = Tally()
    async with bench.running():
        bench.ended(changed, ("success", None))
        await eventually(lambda: len(bench.feeds.stats) < 1)
        bench.ended(changed, ("failed", None), ("failed", None))
        await eventually(lambda: len(bench.feeds.stats) < 2)
        await asyncio.sleep(0.03)  # several intervals without a change
    totals = [pairs(entry)["total"] for entry in bench.feeds.stats]
    assert totals[0] == "1"
    assert totals[-1] == "3"
    assert len(totals) <= 3
    assert {pairs(entry)["agent_id"] for entry in bench.feeds.stats} == {AGENT}


async def test_statistics_of_many_agents_are_made_and_written_a_batch_at_a_time() -> None:
    """Sockets are read and written in between, however many agents there are."""
    bench = Bench(stats_s=0.01)
    sessions = [a_session(agent_id=f"a{n}") for n in range(2 * BATCH + 1)]
    for session in sessions:
        bench.ended(session, ("success", 10))
    async with bench.running():
        await eventually(lambda: len(bench.feeds.stats) < len(sessions))
    assert bench.feeds.stats_calls == [BATCH, BATCH, 1]
    assert [pairs(entry)["agent_id"] for entry in bench.feeds.stats] == [session.agent_id for session in sessions]


async def test_an_agent_that_goes_before_its_turn_is_told_of_once() -> None:
    bench = Bench()
    session = a_session()
    bench.ended(session, ("success", 10))
    bench.reports._begin_round()
    bench.reports.on_gone(session)
    await bench.reports.flush()
    assert len(bench.feeds.stats) == 1


async def test_a_flush_tells_all_statistics_and_ends_where_redis_takes_none() -> None:
    bench = Bench()
    for n in range(2 * BATCH + 1):
        bench.ended(a_session(agent_id=f"a{n}"), ("success", 10))
    bench.feeds.away = 1
    await bench.reports.flush()
    assert bench.feeds.stats == []
    await bench.reports.flush()
    assert len(bench.feeds.stats) == 2 * BATCH + 1


async def test_an_agent_that_goes_leaves_its_last_statistics() -> None:
    bench = Bench()
    session = a_session()
    bench.ended(session, ("success", None))
    bench.reports.on_gone(session)
    await bench.reports.flush()
    assert [pairs(entry)["total"] for entry in bench.feeds.stats] == ["1"]


@pytest.mark.parametrize("tally", [None, Tally()], ids=["none", "unchanged"])
async def test_an_agent_without_ends_leaves_none(tally: Tally | None) -> None:
    bench = Bench()
    session = a_session()
    session.tally = tally
    bench.reports.on_gone(session)
    await bench.reports.flush()
    assert bench.feeds.stats == []


async def test_an_end_that_comes_after_the_connection_is_counted_too() -> None:
    bench = Bench()
    session = a_session()
    bench.ended(session, ("success", None))
    bench.reports.on_gone(session)
    bench.ended(session, ("failed", None))
    await bench.reports.flush()
    assert [pairs(entry)["total"] for entry in bench.feeds.stats][-1] == "2"
