"""A node's doors: shut they let nobody in, and open again they do; a newer order takes the place of an older one."""

import asyncio
import itertools
from typing import Any, cast

import pytest

from cluster import nodes
from cluster.admin import Readiness
from cluster.inbox import Note
from node.adoption import Adoption
from node.doors import Doors
from node.drain import Drain
from node.hub import Hub
from node.session import Session
from tests.support.eventually import eventually
from tests.unit.node.session_bench import a_session


class Bench:
    """Doors of a node with agents; a drain that lasts until it is allowed to end."""

    def __init__(self) -> None:
        self.book: list[str] = []
        self.hub = Hub()
        for number in range(4):
            self.hub.add(a_session(agent_id=f"a{number}"))
        self.may_end = asyncio.Event()
        self.is_serving = False
        everything = cast("Any", self)
        self.doors = Doors(
            self.hub, cast("Drain", everything), cast("Readiness", everything), cast("Adoption", everything),
            announce=self.announce, now_ms=itertools.count(1000).__next__,
        )  # fmt: skip

    async def announce(self) -> None:
        self.book.append(self.doors.state)

    async def start(self) -> None:
        self.book.append("adopts")

    def stop(self) -> None:
        self.book.append("adopts no more")

    async def everybody(self, deadline_s: float, per_s: float) -> None:
        self.book.append(f"drains {per_s:g}/s within {deadline_s:g} s")
        try:
            await self.may_end.wait()
        finally:
            self.book.append("drain over")

    async def some(self, sessions: list[Session], per_s: float) -> None:
        self.book.append(f"moves {len(sessions)} at {per_s:g}/s, first {sessions[0].agent_id}")

    def order(self, kind: str, data: str = "") -> None:
        self.doors.on_order(Note(kind, "", data=data.encode()))

    async def until(self, line: str) -> None:
        await eventually(lambda: "" if self.book[-1:] == [line] else self.book or "nothing yet")


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.doors.open()
    assert (bench.book, bench.is_serving) == (["adopts", nodes.READY], True)
    bench.book.clear()
    return bench


async def test_a_drain_takes_nobody_in_first_and_lets_agents_go_at_the_pace_of_the_order(bench: Bench) -> None:
    bench.order("drain", "2")
    await bench.until("drains 2/s within 14 s")
    assert bench.book == ["adopts no more", nodes.DRAINING, "drains 2/s within 14 s"]
    assert not bench.is_serving
    assert not bench.doors.are_open


async def test_an_undrain_ends_the_drain_and_takes_agents_again(bench: Bench) -> None:
    bench.order("drain", "2")
    await bench.until("drains 2/s within 14 s")
    bench.order("undrain")
    await bench.until(nodes.READY)
    assert bench.book[-3:] == ["drain over", "adopts", nodes.READY]
    assert bench.is_serving


async def test_an_undrain_of_a_node_that_takes_agents_changes_nothing(bench: Bench) -> None:
    bench.order("undrain")
    await asyncio.sleep(0.02)
    assert not bench.book
    assert bench.doors.are_open


async def test_the_state_tells_since_when(bench: Bench) -> None:
    ready_ms = bench.doors.since_ms
    bench.order("drain", "2")
    await bench.until("drains 2/s within 14 s")
    assert bench.doors.since_ms > ready_ms


async def test_the_idlest_agents_are_moved(bench: Bench) -> None:
    for session in bench.hub:
        session.live = {} if session.agent_id == "a2" else {"a task": 1}
    bench.order("move", "2 40")
    await bench.until("moves 2 at 40/s, first a2")


async def test_a_node_that_drains_moves_nobody(bench: Bench) -> None:
    bench.order("drain", "2")
    await bench.until("drains 2/s within 14 s")
    bench.order("move", "2 40")
    await asyncio.sleep(0.02)
    assert bench.book[-1] == "drains 2/s within 14 s"


async def test_the_end_of_the_process_takes_the_place_of_every_order(bench: Bench) -> None:
    bench.order("drain", "2")
    await bench.until("drains 2/s within 14 s")
    ending = asyncio.create_task(bench.doors.end())
    await bench.until("drains 4000/s within 12 s")
    bench.order("undrain")
    await asyncio.sleep(0.02)
    bench.may_end.set()
    await asyncio.wait_for(ending, 5)
    assert bench.doors.state == nodes.DRAINING


async def test_who_asks_for_a_drain_on_the_spot_hears_when_it_is_done(bench: Bench) -> None:
    draining = asyncio.create_task(bench.doors.drain())
    await bench.until("drains 4000/s within 12 s")
    assert not draining.done()
    bench.may_end.set()
    await asyncio.wait_for(draining, 5)
