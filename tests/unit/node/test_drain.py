"""How agents are let go of: acks and tasks under way first, then sockets, then releases and statistics; never later than the deadline."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest

from cluster import close_codes
from node import drain as drain_module
from node.delivery import Courier
from node.drain import Drain
from node.hub import Hub
from node.presence import SLICE, Presence
from node.reports import Reports
from node.session import Session
from node.uplink import Uplink
from tests.unit.node.session_bench import NOW_MS, a_session, link_of


class FakeLane:
    """Nothing waits in it, unless it is stuck."""

    def __init__(self, book: list[str], *, is_stuck: bool) -> None:
        self._book = book
        self._is_stuck = is_stuck

    async def caught_up(self) -> None:
        if self._is_stuck:
            await asyncio.Event().wait()
        self._book.append("acked")


class Bench:
    """Sessions whose sockets close when they are told to, unless their agents do not answer."""

    def __init__(self, agents: int, *, is_stuck: bool = False, closes: bool = True) -> None:
        self.book: list[str] = []
        self.hub = Hub()
        self.counted: Counter[str] = Counter()
        self.results = self.logs = FakeLane(self.book, is_stuck=is_stuck)
        self.closes = closes
        self.sessions = [self.session(f"a{n}") for n in range(agents)]
        self.book.clear()
        crew = [cast("Courier", self), cast("Uplink", self), cast("Presence", self), cast("Reports", self)]
        self.drain = Drain(self.hub, *crew)  # type: ignore[arg-type]

    def now_ms(self) -> int:
        return NOW_MS

    def session(self, agent_id: str) -> Session:
        session = a_session(cast("Any", self), agent_id=agent_id)
        self.hub.add(session)
        link = link_of(session)
        link.abort = self.aborting(session)  # type: ignore[method-assign]
        if self.closes:
            link.close = self.closing(session)  # type: ignore[method-assign]
        return session

    def aborting(self, session: Session) -> Any:
        def aborted() -> None:
            self.book.append("aborted")
            asyncio.get_running_loop().call_soon(session.on_lost)

        return aborted

    def closing(self, session: Session) -> Any:
        link = link_of(session)
        close = type(link).close

        def closed(code: int) -> None:
            assert link.is_paused, "what it sent meanwhile would be read and never acked"
            close(link, code)
            self.book.append(f"closed {session.reason} {code}")
            asyncio.get_running_loop().call_soon(session.on_lost)

        return closed

    def on_attached(self, session: Session) -> None: ...

    def on_gone(self, session: Session) -> None:
        self.hub.discard(session)
        self.book.append("gone")

    async def leave(self, sessions: Sequence[Session]) -> None:
        self.book.append(f"delivered to {len(sessions)}")

    async def settled(self) -> None:
        self.book.append("released")

    async def flush(self) -> None:
        self.book.append("reported")


CLOSED = f"closed drained {close_codes.RESTARTING}"


async def test_what_was_handed_out_is_written_and_what_was_sent_is_acked_before_sockets_close() -> None:
    bench = Bench(2)
    await asyncio.wait_for(bench.drain.everybody(5.0), 10)
    assert bench.book == [
        "delivered to 2", "acked", "acked", CLOSED, CLOSED, "gone", "gone", "released", "reported",
    ]  # fmt: skip


async def test_a_node_without_agents_is_gone_at_once() -> None:
    await asyncio.wait_for(Bench(0).drain.everybody(60.0), 1)


async def test_at_the_deadline_what_does_not_close_is_ended() -> None:
    bench = Bench(2, closes=False)
    await asyncio.wait_for(bench.drain.everybody(0.05), 5)
    assert bench.book[-6:] == ["aborted", "aborted", "gone", "gone", "released", "reported"]
    assert len(bench.hub) == 0


async def test_a_redis_that_is_away_holds_the_sockets_back_once_and_not_for_every_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain_module, "FLUSH_S", 0.1)
    bench = Bench(30, is_stuck=True)
    began_s = asyncio.get_running_loop().time()
    await asyncio.wait_for(bench.drain.everybody(5.0, per_s=1000.0), 5)
    assert asyncio.get_running_loop().time() - began_s < 30 * 0.1
    assert bench.book[-2:] == ["released", "reported"]
    assert bench.book.count(CLOSED) == 30


async def test_who_comes_in_the_last_moment_is_let_go_of_too() -> None:
    """A handshake that was under way when the node began to drain."""
    bench = Bench(1)
    draining = asyncio.create_task(bench.drain.everybody(5.0))
    await asyncio.sleep(0)
    bench.session("late")
    await asyncio.wait_for(draining, 5)
    assert bench.book.count(CLOSED) == 2


async def test_some_go_at_their_pace_and_the_others_stay() -> None:
    bench = Bench(10)
    began_s = asyncio.get_running_loop().time()
    await bench.drain.some(bench.sessions[:5], per_s=40.0)
    assert asyncio.get_running_loop().time() - began_s >= 0.05 * 2
    await asyncio.sleep(0)
    assert [session.agent_id for session in bench.hub] == ["a5", "a6", "a7", "a8", "a9"]
    assert bench.book.count("delivered to 2") == 2  # in slices


async def test_a_drain_that_is_taken_back_leaves_nobody_stopped_and_open() -> None:
    bench = Bench(4, is_stuck=True)
    draining = asyncio.create_task(bench.drain.everybody(5.0, per_s=40.0))
    await asyncio.sleep(0.02)
    draining.cancel()
    await asyncio.wait({draining})
    assert [link_of(session).is_paused for session in bench.sessions if session.is_open] == [False, False]
    assert bench.book.count(CLOSED) == 2


async def test_a_slice_is_never_larger_than_one_go() -> None:
    bench = Bench(SLICE + 1)
    await bench.drain.some(bench.sessions, per_s=1e9)
    assert [line for line in bench.book if line.startswith("delivered")] == [f"delivered to {SLICE}", "delivered to 1"]
