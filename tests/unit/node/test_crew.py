"""A session's events reach the rooms they belong to."""

import asyncio
from typing import Any, cast

import pytest

from cluster.messages import LogLine, Result
from cluster.redis_client import Store
from cluster.registry import Owner
from node import crew as crew_module
from node.crew import EVENTS, NodeCrew
from node.session import Patience, Session
from tests.support.eventually import eventually
from tests.unit.node.session_bench import AGENT, NOW_MS, FakeLink, a_claim, a_session, encode, link_of


class Room:
    """Any room: writes down how it was called, but for the session, in one book for all rooms."""

    def __init__(self, name: str, book: list[tuple[Any, ...]]) -> None:
        self._name = name
        self._book = book

    def __getattr__(self, call: str) -> Any:
        def called(session: Session, *args: Any, **named: Any) -> None:
            assert session.agent_id == AGENT
            self._book.append((f"{self._name}.{call}", *args, *named.values()))

        return called


class FakeClock:
    def now_ms(self) -> int:
        return NOW_MS


class Bench:
    def __init__(self) -> None:
        self.events = dict.fromkeys(EVENTS, 0)
        self.book: list[tuple[Any, ...]] = []
        self.crew = NodeCrew(cast("Store", FakeClock()), self.events)
        for name in ("uplink", "presence", "courier", "reports"):
            setattr(self.crew, name, Room(name, self.book))

    def counted(self) -> dict[str, int]:
        return {event: count for event, count in self.events.items() if count}


def test_a_connection_begins_in_every_room() -> None:
    bench = Bench()
    a_session(bench.crew)
    assert bench.book == [("presence.start", None), ("reports.on_start", False), ("courier.start",)]
    assert bench.counted() == {"connected": 1}


def test_who_had_an_owner_before_is_a_takeover() -> None:
    bench, previous = Bench(), Owner("n2", "boot", 3)
    a_session(bench.crew, claim=a_claim(previous=previous))
    assert bench.book[:2] == [("presence.start", previous), ("reports.on_start", True)]


def test_a_connection_ends_with_its_last_statistics_before_its_release() -> None:
    bench = Bench()
    session = a_session(bench.crew)
    bench.book.clear()
    session.on_lost()
    assert bench.book == [("reports.on_gone",), ("presence.end",)]
    assert bench.counted() == {"connected": 1, "disconnected": 1}


@pytest.mark.parametrize(
    ("message", "call", "event"),
    [
        (
            {"type": "log", "message_id": "m1", "task_id": "t1", "logs": [{"content": "x"}]},
            ("uplink.put_log", "m1", "t1", [LogLine(content="x")]),
            None,
        ),
        (
            {"type": "task_result", "message_id": "m1", "task_id": "t1", "result": {"status": "success"}},
            ("uplink.put_result", "m1", "t1", Result(status="success")),
            None,
        ),
        ({"type": "ack", "ack_id": "t1"}, ("uplink.put_sign_of_life", ("t1",)), "sign_of_life"),
        ({"type": "heartbeat"}, ("reports.on_heartbeat",), "heartbeat"),
    ],
    ids=lambda value: value.get("type", "") if isinstance(value, dict) else "",
)
def test_a_message_reaches_its_room(message: dict[str, Any], call: tuple[Any, ...], event: str | None) -> None:
    bench = Bench()
    session = a_session(bench.crew)
    bench.book.clear()
    session.on_message(encode(message))
    assert bench.book == [call]
    assert set(bench.counted()) - {"connected"} == ({event} if event else set())


def test_who_reads_again_is_looked_after() -> None:
    bench = Bench()
    session = a_session(bench.crew)
    bench.book.clear()
    session.on_writable()
    assert bench.book == [("courier.ring",)]


@pytest.mark.parametrize("payload", [b"x", b'{"type":"x"}', b'{"type":"log"}', b'{"type":"log","message_id":"m"}'])
def test_everything_a_session_counts_is_an_event(payload: bytes) -> None:
    bench = Bench()
    a_session(bench.crew).on_message(payload)
    assert sum(bench.counted().values()) == 2


async def test_a_flood_stops_the_reading_and_a_second_later_it_goes_on() -> None:
    bench = Bench()
    session = a_session(bench.crew, patience=Patience(max_messages_per_s=1))
    link = link_of(session)
    started = asyncio.get_running_loop().time()
    for _ in range(2):
        session.on_message(b'{"type":"heartbeat"}')
    assert link.is_paused
    assert bench.counted()["flood"] == 1
    await eventually(lambda: link.is_paused)
    assert asyncio.get_running_loop().time() - started > 0.9


async def test_a_flooding_connection_that_is_gone_is_not_read_from() -> None:
    session = a_session(Bench().crew, FakeLink())
    link = link_of(session)
    link.pause()
    session.on_lost()
    crew_module._resume(session)
    assert link.is_paused


def test_the_time_is_redis_time() -> None:
    assert Bench().crew.now_ms() == NOW_MS


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1000, "normal"),
        (1006, "dropped"),
        (1012, "restarting"),
        (4408, "heartbeat_timeout"),
        (1001, "other"),
        (4999, "other"),
    ],
)
def test_a_connection_ends_by_the_name_of_its_close_code(code: int, reason: str) -> None:
    bench = Bench()
    session = a_session(bench.crew)
    link_of(session).close_code = code
    session.on_lost()
    assert {name: count for name, count in bench.crew.closed.items() if count} == {reason: 1}
