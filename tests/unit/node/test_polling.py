"""When tasks are fetched, how many calls there are, and what becomes of what came."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from cluster.errors import MailboxFull, StoreUnavailable, TaskConflict
from cluster.http_call import AnswerTooLarge, NoAnswer
from cluster.mailbox import Accepted, Post
from node import polling
from node.hub import Hub
from node.polling import AT_ONCE, OUTCOMES, Poller
from tests.support.eventually import eventually

INTERVAL_S = 0.05


class FakeSession:
    """Who is connected."""

    def __init__(self, agent_id: str, host_id: int = 0) -> None:
        self.agent_id = agent_id
        self.epoch = 1
        self.link: object | None = object()
        self.profile = msgspec.defstruct("Profile", [("host_id", int)])(host_id)


class Bench:
    """A control plane and a mailbox in memory; `say` answers each question."""

    def __init__(self, *agents: str) -> None:
        self.say: Callable[[str], bytes | None] = lambda _: None
        self.asked: list[str] = []
        self.times: list[float] = []
        self.open = self.at_once = 0
        self.gate: asyncio.Event | None = None
        self.posts: list[Post] = []
        self.no: Exception | None = None
        self.tries = 0
        self.may_poll = True
        self.full: set[str] = set()
        self.hub = Hub()
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.poller = Poller(self, self.hub, self, self.counts, interval_s=INTERVAL_S, may_poll=lambda: self.may_poll)
        for agent in agents:
            self.connect(agent)

    def connect(self, agent: str) -> Any:
        session: Any = FakeSession(agent)
        self.hub.add(session)
        return session

    async def next_task(self, agent_id: str, host_id: int) -> bytes | None:
        self.asked.append(agent_id)
        self.times.append(asyncio.get_running_loop().time())
        self.open += 1
        self.at_once = max(self.at_once, self.open)
        try:
            if self.gate is not None:
                await self.gate.wait()
            return self.say(agent_id)
        finally:
            self.open -= 1

    async def accept(self, post: Post) -> Accepted:
        self.tries += 1
        if self.no is not None:
            raise self.no
        self.posts.append(post)
        return Accepted("dispatched", None, 1)

    async def has_room(self, agent_id: str) -> bool:
        return agent_id not in self.full

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.poller.run(), name="polling")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def has_asked(self, count: int) -> None:
        await eventually(lambda: len(self.asked) < count and f"{len(self.asked)} of {count}", 5.0, every_s=0.002)


def fail(_: str) -> bytes | None:
    raise NoAnswer("it answers 500")


# ---- rhythm


async def test_each_agent_is_asked_for_once_an_interval_and_all_are_spread_over_it() -> None:
    bench = Bench("a", "b", "c", "d", "e")
    loop = asyncio.get_running_loop()
    async with bench.running():
        began = loop.time()
        await bench.has_asked(15)
    assert bench.asked[:15] == ["a", "b", "c", "d", "e"] * 3
    assert loop.time() - began > 2.5 * INTERVAL_S
    assert bench.times[4] - bench.times[0] > 0.7 * INTERVAL_S


async def test_no_more_calls_than_allowed_are_open() -> None:
    bench = Bench(*(f"a{n}" for n in range(50)))
    bench.gate = asyncio.Event()
    async with bench.running():
        await bench.has_asked(AT_ONCE)
        await asyncio.sleep(3 * INTERVAL_S)
        assert len(bench.asked) == AT_ONCE
        bench.gate.set()
        await bench.has_asked(50)
    assert bench.at_once == AT_ONCE


async def test_who_has_come_is_asked_for_and_who_has_gone_is_not() -> None:
    bench = Bench()
    async with bench.running():
        session = bench.connect("a")
        await bench.has_asked(1)
        bench.hub.discard(session)
        bench.connect("b")
        await eventually(lambda: bench.asked[-1:] != ["b"], 5.0)
        seen = bench.asked.count("a")
        await bench.has_asked(len(bench.asked) + 3)
    assert bench.asked.count("a") == seen


# ---- tasks


async def test_a_task_is_taken_byte_for_byte() -> None:
    bench = Bench("a")
    body = ' {"id" : "1",\n "zz": 1.50} '
    bench.say = lambda _: body.encode()
    async with bench.running():
        await eventually(lambda: not bench.posts, 5.0)
    post = bench.posts[0]
    assert (post.agent_id, post.batch, [(task.id, task.json) for task in post.tasks]) == ("a", "", [("1", body)])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"id": "1", "timeout_sec": "canary"}', "timeout_sec: "),
        (b'{"name": "canary"}', "id: required"),
        (b"[]", "body: "),
        (b"", "body is not valid JSON"),
        (b"\xff", "body is not"),
    ],
)
async def test_what_is_no_task_is_counted_and_warned_of_once(
    body: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench("a")
    bench.say = lambda _: body
    async with bench.running():
        await bench.has_asked(4)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert said in warnings[0]
    assert "canary" not in warnings[0]
    assert bench.counts["bad_input"] >= 3
    assert not bench.posts


async def test_a_task_that_is_too_large_is_that_agents_fault_alone(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("a", "b")

    def say(agent: str) -> bytes | None:
        if agent == "a":
            raise AnswerTooLarge("its answer has more than 5 bytes")
        return None

    bench.say = say
    async with bench.running():
        await bench.has_asked(8)
    assert bench.counts["failed"] == 0
    assert len(caplog.records) == 1


async def test_what_the_mailbox_refuses_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("a")
    bench.say = lambda _: b'{"id": "1"}'
    bench.no = no = TaskConflict("task id 1 was used before, with other contents")
    async with bench.running():
        await bench.has_asked(4)
    assert len(caplog.records) == 1
    assert str(no) in caplog.text


async def test_for_an_agent_whose_mailbox_is_full_nothing_is_fetched(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("full", "other")
    bench.full = {"full"}
    async with bench.running():
        await bench.has_asked(3)
        assert set(bench.asked) == {"other"}
        bench.full.clear()
        await eventually(lambda: "full" not in bench.asked, 5.0)
    assert bench.counts["full"] >= 2
    assert not caplog.records


async def test_a_task_that_came_when_the_mailbox_had_just_filled_is_kept_until_it_is_taken() -> None:
    bench = Bench("a")
    bench.say = lambda _: b'{"id": "%d"}' % len(bench.asked)
    bench.no = MailboxFull("full")
    async with bench.running():
        await eventually(lambda: bench.tries < 3, 5.0)  # whatever the look says that comes before each
        assert len(bench.asked) == 1
        bench.full = {"a"}
        bench.no = None
        await asyncio.sleep(3 * INTERVAL_S)
        assert (len(bench.asked), bench.posts) == (1, [])
        bench.full.clear()
        await eventually(lambda: len(bench.posts) < 3, 5.0)
    assert [post.tasks[0].id for post in bench.posts[:3]] == ["1", "2", "3"]


async def test_a_task_that_is_kept_for_an_agent_that_goes_is_taken_all_the_same() -> None:
    bench = Bench("b")
    session = bench.connect("a")
    bench.say = lambda agent: b'{"id": "1"}' if agent == "a" else None
    bench.no = MailboxFull("full")
    async with bench.running():
        await eventually(lambda: not bench.tries, 5.0)
        bench.hub.discard(session)
        await eventually(lambda: bench.tries < 3, 5.0)
        bench.no = None
        await eventually(lambda: not bench.posts, 5.0)
    assert [(post.agent_id, post.tasks[0].id) for post in bench.posts] == [("a", "1")]


async def test_a_task_that_is_still_kept_when_it_stops_is_told(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("a")
    bench.say = lambda _: b'{"id": "1"}'
    bench.no = MailboxFull("full")
    async with bench.running():
        await eventually(lambda: bench.tries < 2, 5.0)
        bench.may_poll = False
        await bench.poller.stop()
    assert caplog.messages == ["mailboxes are full: 1 tasks that were fetched are dropped"]


# ---- trouble


async def test_a_control_plane_that_fails_is_left_alone_for_longer_and_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench("a", "b", "c")
    bench.say = fail
    async with bench.running():
        await bench.has_asked(4)
        gaps = [later - sooner for sooner, later in zip(bench.times, bench.times[1:], strict=False)]
        assert gaps[1] > 1.5 * INTERVAL_S
        assert gaps[2] > 3.5 * INTERVAL_S
        bench.say = lambda _: None
        await bench.has_asked(len(bench.asked) + 15)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the control plane cannot be asked, tasks are not polled: it answers 500",
        "the control plane answers again",
    ]


async def test_calls_that_fail_together_are_one_failure() -> None:
    bench = Bench(*(f"a{n}" for n in range(AT_ONCE)))
    bench.gate = asyncio.Event()
    bench.say = fail
    async with bench.running():
        await bench.has_asked(AT_ONCE)
        bench.gate.set()
        await eventually(lambda: bench.open > 0, 5.0)
        assert bench.poller._failures == 1


async def test_in_trouble_there_is_one_call_at_a_time() -> None:
    bench = Bench(*(f"a{n}" for n in range(40)))
    bench.say = fail
    async with bench.running():
        await bench.has_asked(1)
        bench.at_once = 0
        bench.gate = asyncio.Event()
        await bench.has_asked(2)
        await asyncio.sleep(4 * INTERVAL_S)
        assert (len(bench.asked), bench.at_once) == (2, 1)


# ---- Redis, draining


async def test_nothing_is_asked_for_while_it_is_not_allowed() -> None:
    bench = Bench("a")
    bench.may_poll = False
    async with bench.running():
        await asyncio.sleep(3 * INTERVAL_S)
        assert not bench.asked
        bench.may_poll = True
        await bench.has_asked(1)


async def test_a_task_that_redis_does_not_take_is_held_and_nothing_more_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(polling, "RETRY_S", 0.02)
    bench = Bench("a", "b")
    bench.say = lambda agent: b'{"id": "1"}' if agent == "a" and len(bench.asked) == 1 else None
    bench.no = StoreUnavailable("away")
    async with bench.running():
        await eventually(lambda: bench.tries < 3, 5.0)
        seen = len(bench.asked)
        assert seen <= 2
        await asyncio.sleep(3 * INTERVAL_S)
        assert len(bench.asked) == seen
        bench.no = None
        await eventually(lambda: len(bench.posts) != 1, 5.0)
        await bench.has_asked(seen + 2)
    assert [post.tasks[0].id for post in bench.posts] == ["1"]


async def test_when_it_stops_what_was_fetched_is_still_taken() -> None:
    bench = Bench("a", "b")
    bench.gate = asyncio.Event()
    bench.say = lambda _: b'{"id": "1"}'
    async with bench.running():
        await bench.has_asked(1)
        stopping = asyncio.create_task(bench.poller.stop(), name="stop")
        await asyncio.sleep(2 * INTERVAL_S)
        asked = len(bench.asked)
        assert not stopping.done()
        bench.gate.set()
        await stopping
        assert len(bench.posts) == asked
        await asyncio.sleep(2 * INTERVAL_S)
        assert len(bench.asked) == asked


async def test_a_call_that_hangs_does_not_keep_it_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "STOP_S", 0.05)
    bench = Bench("a")
    bench.gate = asyncio.Event()
    async with bench.running():
        await bench.has_asked(1)
        await bench.poller.stop()
        await eventually(lambda: bench.open > 0, 1.0)


async def test_what_nobody_meant_ends_one_call_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench("a")

    def broken(_: str) -> bytes | None:
        raise KeyError("x")

    bench.say = broken
    async with bench.running():
        await bench.has_asked(3)
    assert "poll a failed" in caplog.text
