"""A run against feeds and a server that answer as they are told: what is said, in which order, and how it ends."""

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from cluster.client import job as job_module
from cluster.client import run as run_module
from cluster.client.agents import Agent
from cluster.client.job import Job
from cluster.client.orders import Orders
from cluster.client.outcome import NotFound
from cluster.client.report import Report
from cluster.client.run import Feeds, Interrupts, Run
from cluster.client.screen import Screen
from cluster.client.streams import Entry, Streams

LOGS, RESULTS = "logs", "results"
WITHIN_S = 10.0


def line(task_id: str, content: str, stream: str = "stdout") -> Entry:
    return Entry(LOGS, "1-1", {"task_id": task_id, "content": content, "stream": stream})


def result(task_id: str, status: str = "success", *, size: int = 0, **fields: str) -> Entry:
    return Entry(RESULTS, "1-1", {"task_id": task_id, "status": status, "log_size": str(size), **fields})


class ScriptedFeeds:
    """What each read brings; what is put later comes to who waits."""

    def __init__(self, *batches: Sequence[Entry]) -> None:
        self.batches: asyncio.Queue[Sequence[Entry]] = asyncio.Queue()
        for batch in batches:
            self.batches.put_nowait(batch)

    async def last(self, feed: str, count: int) -> list[Entry]:
        return []

    async def read(self, block_ms: int = 1000) -> list[Entry]:
        try:
            return list(await asyncio.wait_for(self.batches.get(), block_ms / 1000))
        except TimeoutError:
            return []


class ScriptedServer:
    """Takes every task, and remembers what it was asked."""

    def __init__(self, *, status: str = "dispatched", limit_s: float | None = None) -> None:
        self.limit_s = limit_s
        self.status = status
        self.said: dict[str, Any] | None = {"status": "sent"}
        self.cancelled: list[str] = []
        self.on_cancel: Callable[[Job], None] = lambda _: None

    async def post(self, job: Job, is_stopped: Callable[[], bool]) -> None:
        job.is_posted, job.is_waiting = True, self.status == "pending"

    async def look(self, job: Job) -> dict[str, Any]:
        if self.said is None:
            raise NotFound("no such task")
        return self.said

    async def cancel(self, job: Job) -> None:
        self.cancelled.append(job.task_id)
        self.on_cancel(job)


class Scene:
    """A run on agents `a`, `b`, ... whose tasks are called `t-a`, `t-b`, ...; stdout and stderr go to one terminal."""

    def __init__(self, server: ScriptedServer, feeds: ScriptedFeeds | None, names: str = "a") -> None:
        self.shown = io.StringIO()
        self.interrupts = Interrupts()
        jobs = [Job(Agent(f"id-{name}", name), f"t-{name}") for name in names]
        report = Report(Screen(out=self.shown, err=self.shown), jobs)
        streams = cast(Streams | None, feeds)
        self.run = Run(cast(Orders, server), Feeds(streams, LOGS, RESULTS), report, jobs, self.interrupts)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.run.follow(), WITHIN_S)

    def said(self) -> list[str]:
        return self.shown.getvalue().splitlines()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a moment does not look like lines that never come."""
    monkeypatch.setattr(job_module, "QUIET_S", WITHIN_S)
    monkeypatch.setattr(job_module, "LINES_S", WITHIN_S)


@pytest.mark.usefixtures("patient")
async def test_an_end_is_told_behind_the_last_line_though_it_was_read_first() -> None:
    feeds = ScriptedFeeds(
        [line("t-a", "one"), result("t-a", "failed", exit_code="3", size=9)],
        [line("t-a", "two", "stderr")],
        [line("t-a", "!")],
    )
    scene = Scene(ScriptedServer(), feeds)
    assert await scene.ended() == 3
    assert scene.said() == ["one", "two", "!", "agent-server: a: failed, exit code 3"]


@pytest.mark.usefixtures("patient")
async def test_each_of_many_ends_behind_its_own_last_line() -> None:
    feeds = ScriptedFeeds(
        [result("t-a", "failed", exit_code="1", size=4), line("t-b", "one")],
        [result("t-b", "failed", exit_code="2", size=8), line("t-b", "two")],
        [line("t-a", "one")],
    )
    scene = Scene(ScriptedServer(), feeds, "ab")
    assert await scene.ended() == 1
    assert scene.said() == [
        *("b | one", "b | two", "agent-server: b: failed, exit code 2"),
        *("a | one", "agent-server: a: failed, exit code 1"),
        "agent-server: 2 agents: 2 failed",
    ]


async def test_lines_that_never_come_hold_an_end_back_for_a_moment_alone() -> None:
    scene = Scene(ScriptedServer(), ScriptedFeeds([result("t-a", "failed", exit_code="3", size=1000)]))
    assert await scene.ended() == 3
    assert scene.said() == ["agent-server: a: failed, exit code 3"]


async def test_without_feeds_the_server_tells_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "ASK_ALONE_S", 0.01)
    server = ScriptedServer()
    server.said = {"status": "failed", "exit_code": 7, "error_msg": "exit status 7", "error_code": 0}
    scene = Scene(server, None)
    assert await scene.ended() == 7
    assert scene.said() == ["agent-server: a: failed, exit code 7"]


async def test_an_end_whose_entry_does_not_come_is_taken_from_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "ASK_S", 0.01)
    server = ScriptedServer()
    server.said = {"status": "failed", "exit_code": -1, "error_msg": "no result", "error_code": 1004}
    scene = Scene(server, ScriptedFeeds())
    assert await scene.ended() == 5
    assert scene.said() == ["agent-server: a: timed out: no result"]


async def test_ctrl_c_cancels_and_waits_for_the_ends() -> None:
    feeds, server = ScriptedFeeds(), ScriptedServer()
    server.on_cancel = lambda job: feeds.batches.put_nowait([result(job.task_id, "cancelled")])
    scene = Scene(server, feeds, "ab")
    scene.interrupts.hear()
    assert await scene.ended() == 130
    assert sorted(server.cancelled) == ["t-a", "t-b"]
    assert scene.said() == ["agent-server: interrupted: cancelling 2 tasks", "agent-server: 2 agents: 2 cancelled"]


async def test_a_second_ctrl_c_does_not_wait_for_the_ends() -> None:
    server = ScriptedServer()
    scene = Scene(server, ScriptedFeeds())
    server.on_cancel = lambda _: scene.interrupts.hear()
    scene.interrupts.hear()
    assert await scene.ended() == 130
    assert scene.said()[-1] == "agent-server: 1 task not ended yet: a t-a"


async def test_a_time_limit_that_is_over_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "LATE_S", 0.1)
    feeds, server = ScriptedFeeds(), ScriptedServer(limit_s=0.1)
    server.on_cancel = lambda job: feeds.batches.put_nowait([result(job.task_id, "cancelled")])
    scene = Scene(server, feeds)
    assert await scene.ended() == 5
    assert scene.said()[0] == "agent-server: no result 0.1 s after the time limit: cancelling 1 task"


async def test_a_task_that_waits_for_its_agent_has_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "LATE_S", 0.1)
    feeds, server = ScriptedFeeds(), ScriptedServer(status="pending", limit_s=0.1)
    scene = Scene(server, feeds)
    running = asyncio.create_task(scene.ended(), name="run")
    await asyncio.sleep(0.5)
    feeds.batches.put_nowait([result("t-a")])
    assert await running == 0
    assert scene.said() == ["agent-server: offline: a; its task waits for it (Ctrl-C cancels, --detach does not wait)"]
    assert server.cancelled == []


async def test_an_end_waits_no_longer_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that goes on to send lines after its result does not keep the run."""
    feeds = ScriptedFeeds([result("t-a", "failed", exit_code="3", size=1_000_000)])
    scene = Scene(ScriptedServer(), feeds)
    monkeypatch.setattr(job_module, "LINES_S", 0.5)
    running = asyncio.create_task(scene.ended(), name="run")
    while not running.done():
        feeds.batches.put_nowait([line("t-a", "more")])
        await asyncio.sleep(0.05)
    assert await running == 3
    assert scene.said()[-1] == "agent-server: a: failed, exit code 3"
