"""What is answered without an application, and what is left to it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from cluster.acceptance import Acceptance, Outcome
from cluster.errors import MailboxFull, StoreUnavailable, TaskConflict, UnknownAgent
from cluster.exchange import Exchange
from cluster.hosts import Hosts
from cluster.mailbox import Accepted, Post
from cluster.security import Signer
from router import hot_calls
from router.hot_calls import HotCalls
from tests.support.eventually import eventually

AGENT = "7f1c8a2e-0000-8000-8000-000000000000"
SIGNER = Signer("s" * 32, 1e12)
TASK = b'{"id":"t1"}'


class Taker:
    """In the place of Acceptance: keeps what it is given until the test answers."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.asked: list[asyncio.Future[Outcome]] = []

    def put(self, post: Post) -> asyncio.Future[Outcome]:
        self.posts.append(post)
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]


class Wire:
    """In the place of a transport."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.written, "one answer, in one piece"
        self.written = data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def answer(self) -> tuple[int, dict[str, str], Any]:
        head, _, body = self.written.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert int(headers["content-length"]) == len(body)
        return int(first.split(" ")[1]), headers, msgspec.json.decode(body)


class Asked:
    """One request, and who would be told of its answer."""

    def __init__(
        self, path: str = f"/api/agents/{AGENT}/tasks", body: bytes = TASK, *, method: str = "POST", **kwargs: Any
    ) -> None:
        self.wire, self.answered = Wire(), 0
        signature = kwargs.get("signature") or SIGNER.sign("1700000000", method, path, body)
        self.cycle = RequestResponseCycle(
            scope=cast("Any", {
                "type": "http", "method": method, "path": path,
                "headers": [(b"x-timestamp", b"1700000000"), (b"x-signature", signature.encode())],
            }),
            transport=cast("Any", self.wire), flow=cast("Any", None), logger=logging.getLogger(), access_logger=logging.getLogger(),
            access_log=False, default_headers=[(b"date", b"today")], message_event=asyncio.Event(), expect_100_continue=False,
            keep_alive=kwargs.get("keep_alive", True), on_response=self._on_response,
        )  # fmt: skip
        self.cycle.body, self.cycle.more_body = bytearray(body), False
        self.exchange = Exchange(self.cycle)

    def _on_response(self) -> None:
        self.answered += 1

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        await eventually(lambda: not self.answered and "not answered")
        assert self.answered == 1
        assert self.cycle.response_complete
        return self.wire.answer()


class Book:
    """In the place of Hosts: answers when the test says so."""

    def __init__(self) -> None:
        self.sought: dict[int, asyncio.Future[str | None]] = {}

    def find(self, host_id: int) -> asyncio.Future[str | None]:
        return self.sought.setdefault(host_id, asyncio.get_running_loop().create_future())


def hot(taker: Taker, signer: Signer | None = SIGNER, book: Book | None = None) -> HotCalls:
    return HotCalls(cast("Acceptance", taker), cast("Hosts", book or Book()), signer)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_task_is_answered_once_it_is_accepted(slash: str) -> None:
    taker, asked = Taker(), Asked(f"/api/agents/{AGENT}/tasks{slash}")
    assert hot(taker)(asked.exchange)
    assert [(post.agent_id, post.batch, [task.id for task in post.tasks]) for post in taker.posts] == [
        (AGENT, "", ["t1"])
    ]
    await asyncio.sleep(0)
    assert not asked.wire.written
    taker.asked[0].set_result(Accepted("dispatched", None, 1))
    status, headers, body = await asked.answer()
    assert (status, body) == (200, {"task_id": "t1", "agent_id": AGENT, "status": "dispatched"})
    assert headers.keys() == {"date", "content-length", "content-type"}
    assert headers["content-type"] == "application/json"
    assert not asked.wire.is_closed


async def test_a_task_for_a_host_is_put_once_its_agent_is_found() -> None:
    taker, book, asked = Taker(), Book(), Asked("/api/agents/4711/tasks")
    assert hot(taker, book=book)(asked.exchange)
    assert not taker.posts
    book.sought[4711].set_result(AGENT)
    await eventually(lambda: not taker.posts and "not put")
    taker.asked[0].set_result(Accepted("dispatched", None, 1))
    status, _, body = await asked.answer()
    assert (status, body) == (200, {"task_id": "t1", "agent_id": AGENT, "status": "dispatched"})


async def test_a_host_of_nobody_is_404_and_one_that_cannot_be_looked_up_503() -> None:
    for outcome, status in ((None, 404), (StoreUnavailable("Redis is away"), 503)):
        taker, book, asked = Taker(), Book(), Asked("/api/agents/4711/tasks")
        hot(taker, book=book)(asked.exchange)
        future = book.sought[4711]
        future.set_exception(outcome) if outcome else future.set_result(None)
        assert (await asked.answer())[0] == status
        assert not taker.posts


async def test_a_host_that_is_found_too_late_is_put_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_calls, "WITHIN_S", 0.02)
    taker, book, asked = Taker(), Book(), Asked("/api/agents/4711/tasks")
    hot(taker, book=book)(asked.exchange)
    assert (await asked.answer())[0] == 503
    book.sought[4711].set_result(AGENT)
    await asyncio.sleep(0)
    assert not taker.posts


async def test_a_batch_is_one_post() -> None:
    taker, asked = Taker(), Asked(f"/api/agents/{AGENT}/tasks/batch", b'[{"id":"t1"}, {"id":"t2"}]')
    assert hot(taker)(asked.exchange)
    assert taker.posts[0].batch.startswith("batch:")
    taker.asked[0].set_result(Accepted("pending", None, 2))
    _, _, body = await asked.answer()
    assert body == {"task_ids": ["t1", "t2"], "agent_id": AGENT, "status": "pending", "count": 2}


DECLINED: dict[str, Callable[[], Asked]] = {
    "another method": lambda: Asked(method="PUT"),
    "another path": lambda: Asked(f"/api/agents/{AGENT}/control"),
    "a cancel": lambda: Asked(f"/api/agents/{AGENT}/tasks/cancel/batch"),
    "a task's cancel": lambda: Asked(f"/api/agents/{AGENT}/tasks/x/cancel"),
    "two slashes": lambda: Asked(f"/api/agents/{AGENT}/tasks//"),
    "a line end": lambda: Asked(f"/api/agents/{AGENT}/tasks\n"),
    "a bad agent id": lambda: Asked("/api/agents/a:b/tasks"),
    "a long agent id": lambda: Asked(f"/api/agents/{'x' * 65}/tasks"),
    "a bad signature": lambda: Asked(signature="0" * 64),
    "no JSON": lambda: Asked(body=b"{"),
    "no UTF-8": lambda: Asked(body=b'{"id":"t1","name":"\xff"}'),
    "a bad task id": lambda: Asked(body=b'{"id":"a\\nb"}'),
    "a field of another type": lambda: Asked(body=b'{"id":"t1","timeout_sec":"1"}'),
    "a field in another case": lambda: Asked(body=b'{"id":"t1","Timeout_Sec":1}'),
    "an empty batch": lambda: Asked(f"/api/agents/{AGENT}/tasks/batch", b"[]"),
    "a batch with a bad task": lambda: Asked(f"/api/agents/{AGENT}/tasks/batch", b'[{"id":"t1"},{"id":""}]'),
}


@pytest.mark.parametrize("case", DECLINED)
async def test_what_is_unusual_is_declined_and_nothing_was_done_about_it(case: str) -> None:
    taker, asked = Taker(), DECLINED[case]()
    body = bytes(asked.cycle.body)
    assert not hot(taker)(asked.exchange)
    assert not taker.posts
    assert bytes(asked.cycle.body) == body
    assert not asked.cycle.response_started


async def test_without_a_secret_no_signature_is_asked_for() -> None:
    assert hot(Taker(), None)(Asked(signature="0" * 64).exchange)


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [(UnknownAgent("no"), 404, 1003), (TaskConflict("no"), 409, 1002), (MailboxFull("no"), 503, 1001)],
)
async def test_a_refusal_is_said_as_everywhere(refusal: Any, status: int, code: int) -> None:
    taker, asked = Taker(), Asked()
    hot(taker)(asked.exchange)
    taker.asked[0].set_result(refusal)
    answered, headers, body = await asked.answer()
    assert (answered, body) == (status, {"code": code, "error": "no"})
    assert ("Retry-After" in headers or "retry-after" in headers) is (status == 503)


async def test_redis_away_is_503() -> None:
    taker, asked = Taker(), Asked()
    hot(taker)(asked.exchange)
    taker.asked[0].set_exception(StoreUnavailable("Redis is away"))
    assert (await asked.answer())[0] == 503


async def test_our_own_fault_is_500_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    taker, asked = Taker(), Asked()
    hot(taker)(asked.exchange)
    taker.asked[0].set_exception(ValueError("ours"))
    status, _, body = await asked.answer()
    assert (status, body) == (500, {"code": 1001, "error": "internal error"})
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_what_takes_too_long_is_503_and_what_comes_later_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_calls, "WITHIN_S", 0.05)
    taker, calls = Taker(), [Asked() for _ in range(3)]
    serve = hot(taker)
    for asked in calls[:2]:
        assert serve(asked.exchange)
    await asyncio.sleep(0.02)
    assert serve(calls[2].exchange)
    taker.asked[1].set_result(Accepted("dispatched", None, 1))
    assert (await calls[1].answer())[0] == 200
    for asked in (calls[0], calls[2]):
        assert (await asked.answer())[0] == 503
    taker.asked[0].set_result(Accepted("dispatched", None, 1))
    taker.asked[2].set_exception(StoreUnavailable("late"))
    await asyncio.sleep(0.01)
    assert [asked.answered for asked in calls] == [1, 1, 1]


async def test_a_caller_that_hung_up_hears_nothing() -> None:
    taker, asked = Taker(), Asked()
    hot(taker)(asked.exchange)
    asked.cycle.disconnected = True
    taker.asked[0].set_result(Accepted("dispatched", None, 1))
    await asyncio.sleep(0.01)
    assert not asked.wire.written
    assert not asked.answered


async def test_the_last_answer_of_a_connection_says_so_and_closes_it() -> None:
    taker, asked = Taker(), Asked(keep_alive=False)
    hot(taker)(asked.exchange)
    taker.asked[0].set_result(Accepted("dispatched", None, 1))
    assert (await asked.answer())[1]["connection"] == "close"
    assert asked.wire.is_closed


async def test_one_timer_looks_after_calls_that_come_in_while_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer to a late call lets the next one of its connection in."""
    monkeypatch.setattr(hot_calls, "WITHIN_S", 0.02)
    serve, next_one = hot(Taker()), Asked()
    late = Asked()
    monkeypatch.setattr(late, "_on_response", lambda: serve(next_one.exchange))
    late.cycle.on_response = late._on_response
    assert serve(late.exchange)
    looks: list[None] = []
    look = serve._look_at_the_clock

    def counted() -> None:
        looks.append(None)
        look()

    monkeypatch.setattr(serve, "_look_at_the_clock", counted)
    assert (await next_one.answer())[0] == 503
    await asyncio.sleep(0.05)
    assert len(looks) <= 2
