"""The ordered end of a node: acks first, then sockets, then releases, then statistics; and never later than the deadline."""

import asyncio
from collections import Counter
from typing import Any, cast

import pytest

from cluster import close_codes
from node import drain as drain_module
from node.drain import drain
from node.hub import Hub
from node.presence import Presence
from node.reports import Reports
from node.session import Session
from node.uplink import Uplink
from tests.unit.node.session_bench import a_session, link_of


class FakeLane:
    """Nothing waits in it, unless it is stuck."""

    def __init__(self, book: list[str], *, is_stuck: bool) -> None:
        self._book = book
        self._is_stuck = is_stuck

    async def drained(self) -> None:
        if self._is_stuck:
            await asyncio.Event().wait()
        self._book.append("flushed")


class Bench:
    """Sessions whose sockets close when they are told to, unless their agents do not answer."""

    def __init__(self, agents: int, *, is_stuck: bool = False, closes: bool = True) -> None:
        self.book: list[str] = []
        self.hub = Hub()
        self.counted: Counter[str] = Counter()
        self.results = self.logs = FakeLane(self.book, is_stuck=is_stuck)
        self.sessions = [a_session(cast("Any", self), agent_id=f"a{n}") for n in range(agents)]
        self.book.clear()
        for session in self.sessions:
            self.hub.add(session)
            link = link_of(session)
            link.abort = self.aborting(session)  # type: ignore[method-assign]
            if closes:
                link.close = self.closing(session)  # type: ignore[method-assign]

    def aborting(self, session: Session) -> Any:
        def aborted() -> None:
            self.book.append("aborted")
            asyncio.get_running_loop().call_soon(session.on_lost)

        return aborted

    def closing(self, session: Session) -> Any:
        close = type(link_of(session)).close

        def closed(code: int) -> None:
            close(link_of(session), code)
            self.book.append(f"closed {session.reason} {code}")
            asyncio.get_running_loop().call_soon(session.on_lost)

        return closed

    def on_attached(self, session: Session) -> None: ...

    def on_gone(self, session: Session) -> None:
        self.hub.discard(session)
        self.book.append("gone")

    async def settled(self) -> None:
        self.book.append("released")

    async def flush(self) -> None:
        self.book.append("reported")

    async def drain(self, deadline_s: float) -> None:
        await drain(self.hub, cast("Uplink", self), cast("Presence", self), cast("Reports", self), deadline_s)


async def test_what_was_sent_is_acked_before_sockets_close_and_releases_come_before_the_last_reports() -> None:
    bench = Bench(2)
    await asyncio.wait_for(bench.drain(5.0), 10)
    assert bench.book == [
        "flushed", "flushed", *[f"closed drained {close_codes.RESTARTING}"] * 2, "gone", "gone", "flushed", "flushed",
        "released", "reported",
    ]  # fmt: skip


async def test_a_node_without_agents_is_gone_at_once() -> None:
    await asyncio.wait_for(Bench(0).drain(60.0), 1)


async def test_at_the_deadline_what_does_not_close_is_ended() -> None:
    bench = Bench(2, closes=False)
    await asyncio.wait_for(bench.drain(0.05), 5)
    assert bench.book[-6:] == ["aborted", "aborted", "gone", "gone", "released", "reported"]
    assert len(bench.hub) == 0


async def test_a_redis_that_is_away_does_not_hold_the_sockets_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "FLUSH_S", 0.01)
    bench = Bench(1, is_stuck=True)
    await asyncio.wait_for(bench.drain(5.0), 5)
    assert bench.book == [f"closed drained {close_codes.RESTARTING}", "gone", "released", "reported"]
