"""The desk: who runs, who waits, and what is said of a task that comes again."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.lab import runner
from cluster.lab.desk import Desk
from cluster.lab.finished import FinishedTasks
from cluster.lab.outbox import Outbox
from cluster.lab.output import Keep, OutputLine
from cluster.lab.runner import SUCCESS, Stop
from cluster.lab.state import State
from cluster.lab.wire import End
from cluster.messages import TaskSpec
from tests.support.eventually import eventually

Json = dict[str, Any]


class Runs:
    """Runs tasks for as long as a test wants, and keeps what is sent."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.began: list[str] = []
        self.open: dict[str, asyncio.Future[None]] = {}
        self.desk = self.new_desk()

    def new_desk(self) -> Desk:
        self.outbox = Outbox(self.database, first_s=3.0, longest_s=60.0, now_s=asyncio.get_running_loop().time)
        return Desk(self.outbox, FinishedTasks(self.database), self.run, max_tasks=2, host_id=7)

    async def run(self, task: TaskSpec, stop: Stop, keep: Keep) -> End:
        task_id = task.id or ""
        self.began.append(task_id)
        self.open[task_id] = asyncio.get_running_loop().create_future()
        if task.command == "break":
            raise ZeroDivisionError
        await keep([OutputLine("stderr", "a line", 5)])
        await asyncio.wait((self.open[task_id], stop), return_when=asyncio.FIRST_COMPLETED)
        return runner.end_of(task_id, stop.result() if stop.done() else SUCCESS)

    def take(self, *task_ids: str) -> None:
        for task_id in task_ids:
            self.desk.take(TaskSpec(id=task_id))

    async def end(self, task_id: str) -> None:
        self.open[task_id].set_result(None)
        await eventually(lambda: "" if task_id in self.ended() else "it runs")

    async def running(self, *task_ids: str) -> None:
        await eventually(lambda: "" if self.began == list(task_ids) else f"{self.began} began")

    def sent(self, kind: str) -> list[Json]:
        self.outbox.rewind()
        frames = [json.loads(frame) for frame in iter(self.outbox.next, None)]
        return [frame for frame in frames if frame["type"] == kind]

    def ended(self) -> dict[str, str]:
        """Status by task."""
        return {frame["task_id"]: frame["result"]["status"] for frame in self.sent("task_result")}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with State(tmp_path / "state") as state:
        yield state.database


@pytest.fixture
async def runs(database: sqlite3.Connection) -> AsyncIterator[Runs]:
    runs = Runs(database)
    yield runs
    await runs.desk.stop()


async def test_so_many_run_at_once_and_the_rest_wait_in_order(runs: Runs) -> None:
    runs.take("a", "b", "c", "d")
    await runs.running("a", "b")
    await runs.end("b")
    await runs.running("a", "b", "c")


async def test_a_task_that_runs_or_waits_is_not_taken_twice(runs: Runs) -> None:
    runs.take("a", "b", "c", "a", "c")
    await runs.running("a", "b")
    await runs.end("a")
    await runs.end("b")
    await runs.end("c")
    assert runs.began == ["a", "b", "c"]


async def test_a_finished_task_is_answered_by_its_result_and_not_run(runs: Runs) -> None:
    runs.take("a")
    await runs.running("a")
    await runs.end("a")
    (first,) = runs.sent("task_result")
    runs.outbox.settle(first["message_id"])
    runs.take("a")
    assert runs.sent("task_result") == [first]
    assert runs.began == ["a"]


async def test_a_finished_task_is_known_to_the_next_process(runs: Runs) -> None:
    runs.take("a")
    await runs.running("a")
    await runs.end("a")
    runs.desk = runs.new_desk()
    runs.take("a")
    assert (runs.ended(), runs.began) == ({"a": "success"}, ["a"])


async def test_lines_carry_their_task_and_their_host(runs: Runs) -> None:
    runs.take("a")
    await eventually(lambda: "" if runs.sent("log") else "no line")
    (frame,) = runs.sent("log")
    (line,) = frame["logs"]
    assert frame["task_id"] == line["task_id"] == "a"
    assert (line["stream"], line["level"], line["content"], line["host_id"]) == ("stderr", "error", "a line", 7)


async def test_a_cancel_ends_what_runs(runs: Runs) -> None:
    runs.take("a")
    await runs.running("a")
    runs.desk.cancel("a")
    runs.desk.cancel("a")
    await eventually(lambda: "" if runs.ended() == {"a": "cancelled"} else "it runs")


async def test_a_cancel_ends_what_waits_and_it_never_runs(runs: Runs) -> None:
    runs.take("a", "b", "c")
    runs.desk.cancel("c")
    assert runs.ended() == {"c": "cancelled"}
    await runs.running("a", "b")
    await runs.end("a")
    await runs.end("b")
    assert runs.began == ["a", "b"]


async def test_a_cancel_of_a_finished_task_sends_its_result_again(runs: Runs) -> None:
    runs.take("a")
    await runs.running("a")
    await runs.end("a")
    runs.desk.cancel("a")
    assert runs.ended() == {"a": "success"}


async def test_a_cancel_of_an_unknown_task_ends_it_and_it_never_runs(runs: Runs) -> None:
    runs.desk.cancel("a")
    assert runs.ended() == {"a": "cancelled"}
    runs.take("a")
    assert (runs.began, runs.ended()) == ([], {"a": "cancelled"})


async def test_when_the_agent_stops_everything_ends(runs: Runs) -> None:
    runs.take("a", "b", "c")
    await runs.running("a", "b")
    await runs.desk.stop()
    runs.take("d")
    assert runs.ended() == dict.fromkeys("abcd", "failed")
    assert {frame["result"]["error_msg"] for frame in runs.sent("task_result")} == {"agent stopped"}
    assert runs.began == ["a", "b"]


async def test_a_mistake_of_the_agent_ends_the_task_too(runs: Runs) -> None:
    runs.desk.take(TaskSpec(id="a", command="break"))
    await eventually(lambda: "" if runs.ended() == {"a": "failed"} else "it runs")


async def test_a_task_without_an_id_is_dropped(runs: Runs) -> None:
    runs.desk.take(TaskSpec(command="true"))
    assert runs.ended() == {}
