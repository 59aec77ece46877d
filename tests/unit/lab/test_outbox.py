"""The outbox: nothing is lost before it is acked, nothing grows without bound, and what is sent again goes at its time."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.lab import finished, outbox
from cluster.lab.finished import Finished, FinishedTasks
from cluster.lab.outbox import WINDOW, Outbox
from cluster.lab.state import State


class Clock:
    """A steady clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with State(tmp_path / "state") as state:
        yield state.database


Open = Callable[[], Outbox]


@pytest.fixture
def opened(database: sqlite3.Connection, clock: Clock) -> Open:
    """Opens the outbox of a new process."""
    return lambda: Outbox(database, first_s=3.0, longest_s=60.0, now_s=clock)


def sent(box: Outbox) -> list[str]:
    """Everything that is to be sent now."""
    return [frame.decode() for frame in iter(box.next, None)]


async def test_messages_go_in_the_order_in_which_they_were_written(opened: Open) -> None:
    box = opened()
    await box.add_log("1", b"log 1")
    box.add_result("2", b"result 2")
    await box.add_log("3", b"log 3")
    assert sent(box) == ["log 1", "result 2", "log 3"]
    assert sent(box) == []


async def test_what_is_not_acked_goes_again_ever_later(opened: Open, clock: Clock) -> None:
    box, times = opened(), []
    box.add_result("1", b"r")
    began_s = clock.now_s
    for _ in range(400):
        times += [clock.now_s - began_s] * len(sent(box))
        clock.now_s += 0.5
    assert times == [0, 3, 9, 21, 45, 93, 153]


async def test_resending_for_days_does_not_overflow(opened: Open, clock: Clock) -> None:
    box = opened()
    box.add_result("1", b"r")
    for _ in range(1100):
        assert sent(box) == ["r"]
        clock.now_s += 60.0


async def test_what_is_acked_is_never_sent_again(opened: Open, clock: Clock) -> None:
    box = opened()
    box.add_result("1", b"r")
    assert sent(box) == ["r"]
    box.settle("1")
    box.settle("1")
    clock.now_s += 1000
    assert (sent(box), len(box), len(opened())) == ([], 0, 0)


async def test_a_new_connection_sends_everything_at_once(opened: Open, clock: Clock) -> None:
    box = opened()
    for number in range(3):
        box.add_result(str(number), b"%d" % number)
    assert sent(box) == ["0", "1", "2"]
    box.settle("1")
    box.rewind()
    assert sent(box) == ["0", "2"]
    clock.now_s += 3  # and the times begin anew
    assert sent(box) == ["0", "2"]


async def test_a_new_process_sends_what_is_on_disk_results_first(opened: Open) -> None:
    box = opened()
    await box.add_log("1", b"log 1")
    await box.add_log("2", b"log 2")
    box.add_result("3", b"result 3")
    assert sent(opened()) == ["result 3", "log 1", "log 2"]


async def test_only_so_many_are_under_way(opened: Open) -> None:
    box = opened()
    for number in range(WINDOW + 10):
        box.add_result(str(number), b"r")
    assert len(sent(box)) == WINDOW
    box.settle("0")
    assert len(sent(box)) == 1


async def test_a_full_outbox_makes_a_task_wait_until_there_is_room(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_MESSAGES", 1)
    box = opened()
    await box.add_log("1", b"1")
    waiting = asyncio.create_task(box.add_log("2", b"2"))
    await asyncio.sleep(0)
    assert not waiting.done()
    box.settle("1")
    assert await waiting
    assert sent(box) == ["2"]


async def test_a_full_outbox_refuses_lines_when_waiting_does_not_help(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_BYTES", 4)
    monkeypatch.setattr(outbox, "ROOM_WAIT_S", 0.05)
    box = opened()
    assert await box.add_log("1", b"full")
    assert not await box.add_log("2", b"x")
    began_s = time.monotonic()
    assert not await box.add_log("3", b"x")
    assert time.monotonic() - began_s < 0.05  # it has waited once, and does not wait for every message
    box.add_result("4", b"result")
    assert sent(box) == ["full", "result"]
    box.settle("1")
    box.settle("4")
    assert await box.add_log("5", b"room")


async def test_a_message_of_yesterday_is_given_up(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    box = opened()
    box.add_result("1", b"old")
    monkeypatch.setattr(outbox, "MAX_AGE_S", -1.0)
    assert sent(opened()) == []
    monkeypatch.undo()
    assert sent(opened()) == []


async def test_a_result_that_is_kept_already_is_not_kept_twice(opened: Open) -> None:
    box = opened()
    box.add_result("1", b"r")
    box.add_result("1", b"r")
    assert sent(box) == ["r"]


async def test_whoever_waits_is_woken_by_what_falls_due(database: sqlite3.Connection) -> None:
    box = Outbox(database, first_s=0.02, longest_s=0.02, now_s=asyncio.get_running_loop().time)
    box.add_result("1", b"r")
    assert sent(box) == ["r"]
    while not (again := sent(box)):
        await asyncio.wait_for(box.wait(), 5)
    assert again == ["r"]


async def test_a_disk_that_refuses_stops_nothing(
    opened: Open, database: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    box = opened()
    database.execute("PRAGMA query_only = ON")
    box.add_result("1", b"r")
    assert sent(box) == ["r"]
    assert "a restart will not remember" in caplog.text


# ---- tasks that have ended


def test_an_ended_task_is_remembered_by_the_next_process(database: sqlite3.Connection) -> None:
    FinishedTasks(database).remember("t", "m", b"frame")
    assert FinishedTasks(database).find("t") == Finished("m", b"frame")
    assert FinishedTasks(database).find("u") is None


def test_only_so_many_ended_tasks_are_remembered(database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "MAX_TASKS", 2)
    tasks = FinishedTasks(database)
    for name in "abc":
        tasks.remember(name, name, b"")
    assert [name for name in "abc" if tasks.find(name)] == ["b", "c"]


def test_an_ended_task_is_forgotten_after_a_day(database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = FinishedTasks(database)
    tasks.remember("t", "m", b"")
    monkeypatch.setattr(finished, "MAX_AGE_S", -1.0)
    assert tasks.find("t") is None
