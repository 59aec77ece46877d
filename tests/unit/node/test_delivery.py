"""From the mailbox to the socket: marked first, written after, to who reads, and never to the wrong session."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from cluster import close_codes, messages
from cluster.errors import StoreUnavailable
from cluster.feeds import Feeds
from cluster.inbox import Inbox, Note
from cluster.mailbox import Delivery, Mailbox, Resumed, Take, Taken
from node import delivery as delivery_module
from node.delivery import TAKES, TRIM_EVERY, Courier
from node.hub import Hub
from node.session import Session
from tests.support.eventually import eventually
from tests.unit.node.session_bench import AGENT, NOW_MS, a_claim, a_session, link_of

NOTHING = Delivery([], [], "0", more=False, cursor=0)
GRACE_S = 0.05


class FakeStore:
    """The mailbox, the inbox and the feed of results in memory; `away` is how many calls go unanswered."""

    def __init__(self) -> None:
        self.deliveries: dict[str, list[Delivery | None]] = {}
        self.takes: list[list[Take]] = []
        self.resumes: list[tuple[str, str, int, str, bool, int]] = []
        self.resumed: dict[str, list[Resumed | None]] = {}  # by phase; None goes unanswered
        self.paid: list[list[bytes]] = []
        self.notes: asyncio.Queue[list[Note]] = asyncio.Queue()
        self.reads: list[tuple[str, str]] = []
        self.trims: list[tuple[str, str]] = []
        self.away: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.open.set()

    def _answer(self, call: str) -> None:
        if self.away[call]:
            self.away[call] -= 1
            raise StoreUnavailable(call)

    async def take(self, takes: Sequence[Take]) -> list[Delivery | None]:
        self.takes.append(list(takes))
        await self.open.wait()
        self._answer("take")
        return [
            self.deliveries[take.agent_id].pop(0) if self.deliveries.get(take.agent_id) else NOTHING for take in takes
        ]

    async def resume(
        self, agent_id: str, owner: str, cursor: int, *, phase: str, again: bool = False, after: int = 0
    ) -> Resumed:
        self.resumes.append((agent_id, owner, cursor, phase, again, after))
        answer = self.resumed[phase].pop(0) if self.resumed.get(phase) else Resumed([], [], 0)
        if answer is None:
            raise StoreUnavailable("resume")
        return answer

    async def pay_results(self, owed: Sequence[bytes]) -> None:
        self._answer("pay")
        if owed:
            self.paid.append(list(owed))

    async def read(self, node_id: str, after: str) -> tuple[str, list[Note]]:
        self.reads.append((node_id, after))
        self._answer("read")
        notes = await self.notes.get()
        return str(int(after) + len(notes)), notes

    async def trim(self, node_id: str, read: str) -> None:
        self.trims.append((node_id, read))
        self._answer("trim")


class Bench:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.hub = Hub()
        self.counted: Counter[str] = Counter()
        self.orders: list[Note] = []
        self.courier = Courier(
            "n1", self.hub, cast("Inbox", self.store), cast("Mailbox", self.store), cast("Feeds", self.store),
            redelivery_grace_s=GRACE_S, now_ms=lambda: NOW_MS, count=self.count,
        )  # fmt: skip

    def count(self, event: str) -> None:
        self.counted[event] += 1

    def connected(self, agent_id: str = AGENT, **claimed: Any) -> Session:
        session = a_session(agent_id=agent_id, claim=a_claim(**claimed))
        self.hub.add(session)
        return session

    def delivers(self, session: Session, *deliveries: Delivery | None) -> None:
        self.store.deliveries[session.agent_id] = list(deliveries)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loops = [
            asyncio.create_task(self.courier.deliver()),
            asyncio.create_task(self.courier.read_inbox(self.orders.append)),
        ]
        try:
            yield
        finally:
            resuming = list(self.courier._resuming)
            for task in (*loops, *resuming):
                task.cancel()
            ended = await asyncio.gather(*loops, *resuming, return_exceptions=True)
        assert not [error for error in ended if not isinstance(error, asyncio.CancelledError) and error]


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "RETRY_S", 0.001)
    monkeypatch.setattr(delivery_module, "OUTBOX_S", 0.01)


def taken(*ids: str, batch: str = "", first: int = 1, created_ms: int = 0) -> list[Taken]:
    return [
        Taken(task_id, first + n, batch, b'{"id":"%b"}' % task_id.encode(), created_ms) for n, task_id in enumerate(ids)
    ]


def a_delivery(
    tasks: list[Taken], cancelled: Sequence[str] = (), cancels: str = "0", *, more: bool = False
) -> Delivery:
    """What a take hands out; the cursor is behind the last of it."""
    return Delivery(tasks, list(cancelled), cancels, more, cursor=max([0, *(task.seq for task in tasks)]))


def told(session: Session) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in link_of(session).sent]


def tasks_told(session: Session) -> list[str]:
    """Ids of the tasks in the order in which they were written."""
    found: list[str] = []
    for message in told(session):
        found += [task["id"] for task in message.get("tasks", [message["task"]] if "task" in message else [])]
    return found


# ---- what was never sent ----


async def test_a_ring_takes_and_writes_in_order(bench: Bench) -> None:
    session = bench.connected(taken=4)
    bench.delivers(session, a_delivery(taken("t5", "t6", first=5, created_ms=NOW_MS), [], "0"))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: tasks_told(session) != ["t5", "t6"])
    assert bench.store.takes == [[Take(AGENT, "n1:boot:5", 4, "0")]]
    assert link_of(session).sent == [messages.task(t.id, t.json) for t in taken("t5", "t6")]
    assert session.cursor == 6
    assert bench.counted["task_sent"] == 2


async def test_without_a_ring_nothing_is_taken(bench: Bench) -> None:
    bench.connected()
    async with bench.running():
        await eventually(lambda: not bench.store.reads)
    assert bench.store.takes == []


async def test_rings_of_many_share_a_take_and_one_call_is_in_flight(bench: Bench) -> None:
    sessions = [bench.connected(f"a{n}") for n in range(5)]
    bench.store.open.clear()
    async with bench.running():
        bench.courier.ring(sessions[0])
        await eventually(lambda: not bench.store.takes)
        for session in (*sessions, *sessions):
            bench.courier.ring(session)
        await asyncio.sleep(0)
        assert len(bench.store.takes) == 1
        bench.store.open.set()
        await eventually(lambda: len(bench.store.takes) < 2)
    assert [[take.agent_id for take in call] for call in bench.store.takes] == [["a0"], ["a0", "a1", "a2", "a3", "a4"]]


async def test_a_take_is_for_no_more_agents_than_one_call_may_carry(bench: Bench) -> None:
    for n in range(TAKES + 1):
        bench.courier.ring(bench.connected(f"a{n}"))
    async with bench.running():
        await eventually(lambda: len(bench.store.takes) < 2)
    assert [len(call) for call in bench.store.takes] == [TAKES, 1]


async def test_what_did_not_fit_is_taken_next(bench: Bench) -> None:
    session = bench.connected()
    bench.delivers(session, a_delivery(taken("t1"), [], "0", more=True), a_delivery(taken("t2", first=2), [], "0"))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: tasks_told(session) != ["t1", "t2"])
    assert [call[0].cursor for call in bench.store.takes] == [0, 1]


async def test_what_needs_no_handing_out_is_passed(bench: Bench) -> None:
    """Else the same place is looked at for ever, and nothing behind it is delivered."""
    session = bench.connected()
    bench.delivers(session, Delivery([], [], "0", more=True, cursor=7), a_delivery(taken("t8", first=8)))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: tasks_told(session) != ["t8"])
    assert [call[0].cursor for call in bench.store.takes] == [0, 7]


async def test_the_tasks_of_a_batch_call_are_one_frame_and_keep_their_place(bench: Bench) -> None:
    session = bench.connected()
    tasks = [
        *taken("t1"),
        *taken("t2", "t3", batch="b1", first=2),
        *taken("t4", batch="b2", first=4),
        *taken("t5", first=5),
    ]
    bench.delivers(session, a_delivery(tasks, [], "0"))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: len(tasks_told(session)) != 5)
    assert [(m["type"], m["message_id"]) for m in told(session)] == [
        ("task", "t1"), ("tasks_batch", "b1:2"), ("tasks_batch", "b2:4"), ("task", "t5"),
    ]  # fmt: skip
    assert tasks_told(session) == ["t1", "t2", "t3", "t4", "t5"]


async def test_a_take_that_redis_did_not_answer_writes_nothing_and_is_tried_again_from_the_same_place(
    bench: Bench,
) -> None:
    session = bench.connected(taken=3)
    bench.store.away["take"] = 2
    bench.delivers(session, a_delivery(taken("t4", first=4), [], "0"))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: tasks_told(session) != ["t4"])
    assert bench.store.takes == [[Take(AGENT, "n1:boot:5", 3, "0")]] * 3


async def test_a_session_that_lost_its_agent_is_written_nothing_and_closed_with_4409(bench: Bench) -> None:
    session, other = bench.connected(), bench.connected("other")
    bench.delivers(session, None)
    bench.delivers(other, a_delivery(taken("t1"), [], "0"))
    async with bench.running():
        bench.courier.ring(session)
        bench.courier.ring(other)
        await eventually(lambda: link_of(session).closed != [close_codes.REPLACED])
        await eventually(lambda: tasks_told(other) != ["t1"])
    assert link_of(session).sent == []


@pytest.mark.parametrize("state", ["does not read", "is closing", "is gone"])
async def test_tasks_are_not_taken_for_a_session_that_cannot_be_written_to(bench: Bench, state: str) -> None:
    session, other = bench.connected(), bench.connected("other")
    match state:
        case "does not read":
            link_of(session).writable = False
        case "is closing":
            link_of(session).is_open = False
        case _:
            session.on_lost()
    async with bench.running():
        bench.courier.ring(session)
        bench.courier.ring(other)
        await eventually(lambda: not bench.store.takes)
    assert [[take.agent_id for take in call] for call in bench.store.takes] == [["other"]]


async def test_who_reads_again_is_looked_after(bench: Bench) -> None:
    session = bench.connected()
    link_of(session).writable = False
    bench.delivers(session, a_delivery(taken("t1"), [], "0"))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: not bench.store.reads)
        link_of(session).writable = True
        bench.courier.ring(session)  # as the crew does on on_writable
        await eventually(lambda: tasks_told(session) != ["t1"])


async def test_a_newer_session_takes_the_place_of_one_that_rang(bench: Bench) -> None:
    older = bench.connected()
    bench.courier.ring(older)
    newer = bench.connected(epoch=9)
    bench.courier.ring(newer)
    async with bench.running():
        await eventually(lambda: not bench.store.takes)
    assert [take.owner for call in bench.store.takes for take in call] == ["n1:boot:9"]


async def test_what_was_sent_is_remembered_by_its_session(bench: Bench) -> None:
    session = bench.connected()
    bench.delivers(session, a_delivery([*taken("t1"), *taken("t2", batch="batch:1", first=2)]))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: session.sent != ("t1", "t2"))


# ---- cancels ----


async def test_one_cancel_is_told_after_the_tasks(bench: Bench) -> None:
    session = bench.connected()
    bench.delivers(session, a_delivery(taken("t1"), ["t1"], "3"))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: session.cancels != "3")
        bench.courier.ring(session)
        await eventually(lambda: len(bench.store.takes) < 2)
    assert link_of(session).sent == [messages.task("t1", b'{"id":"t1"}'), messages.cancel_task("t1")]
    assert [call[0].cancels for call in bench.store.takes] == ["0", "3"]


async def test_many_cancels_are_one_frame(bench: Bench) -> None:
    session = bench.connected()
    bench.delivers(session, a_delivery([], ["t1", "t2"], "2"))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: not link_of(session).sent)
    assert link_of(session).sent == [messages.cancel_tasks_batch(["t1", "t2"])]


# ---- the inbox ----


async def test_a_ring_in_the_inbox_takes(bench: Bench) -> None:
    session = bench.connected()
    bench.delivers(session, a_delivery(taken("t1"), [], "0"))
    async with bench.running():
        bench.store.notes.put_nowait([Note("ring", "unknown"), Note("ring", AGENT)])
        await eventually(lambda: tasks_told(session) != ["t1"])


async def test_the_inbox_is_read_on_from_the_last_id_also_after_redis_was_away(bench: Bench) -> None:
    bench.store.away["read"] = 2
    async with bench.running():
        bench.store.notes.put_nowait([Note("ring", "x"), Note("ring", "y")])
        await eventually(lambda: bench.store.reads[-1:] != [("n1", "2")])
    assert bench.store.reads[:3] == [("n1", "0")] * 3


async def test_a_frame_for_this_claim_is_written_within_its_time(bench: Bench) -> None:
    session = bench.connected()
    notes = [Note("send", AGENT, 5, b"in time", NOW_MS), Note("send", AGENT, 5, b"too late", NOW_MS - 1)]
    async with bench.running():
        bench.store.notes.put_nowait(notes)
        await eventually(lambda: len(bench.store.reads) < 2)
    assert link_of(session).sent == [b"in time"]


@pytest.mark.parametrize("note", [Note("send", AGENT, 4, b"x", NOW_MS), Note("close", AGENT, 4, b"4409")], ids=str)
async def test_what_is_meant_for_an_earlier_claim_touches_nobody(bench: Bench, note: Note) -> None:
    session = bench.connected()
    async with bench.running():
        bench.store.notes.put_nowait([note])
        await eventually(lambda: len(bench.store.reads) < 2)
    assert (link_of(session).sent, link_of(session).closed) == ([], [])
    assert bench.counted == {"stale_note": 1}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (close_codes.REPLACED, "websocket_closed"),
        (close_codes.REVOKED, "revoked"),
        (close_codes.HEARTBEAT_TIMEOUT, "heartbeat_timeout"),
    ],
)
async def test_a_close_for_this_claim_closes_it_and_names_its_end(bench: Bench, code: int, reason: str) -> None:
    session = bench.connected()
    async with bench.running():
        bench.store.notes.put_nowait([Note("close", AGENT, 5, str(code).encode())])
        await eventually(lambda: link_of(session).closed != [code])
    assert session.reason == reason


async def test_what_was_read_is_trimmed_now_and_then(bench: Bench) -> None:
    async with bench.running():
        for _ in range(2):
            bench.store.notes.put_nowait([Note("ring", "x")] * (TRIM_EVERY // 2))
        await eventually(lambda: bench.store.trims != [("n1", str(TRIM_EVERY))])


async def test_a_note_of_an_unknown_kind_touches_nobody(bench: Bench) -> None:
    session = bench.connected()
    async with bench.running():
        bench.store.notes.put_nowait([Note("future", AGENT, 5, b"x")])
        await eventually(lambda: len(bench.store.reads) < 2)
    assert (link_of(session).sent, link_of(session).closed) == ([], [])


# ---- what earlier sessions were handed ----


async def test_a_start_takes_at_once_and_judges_what_earlier_sessions_had_twice(bench: Bench) -> None:
    session = bench.connected(epoch=9, taken=7, unended=2)
    bench.store.resumed = {"claim": [Resumed([b"owed"], [], 0)], "grace": [Resumed([], taken("t3", first=3), 0)]}
    async with bench.running():
        bench.courier.start(session)
        await eventually(lambda: tasks_told(session) != ["t3"])
    assert [[take.cursor for take in call] for call in bench.store.takes] == [[7]]
    assert bench.store.resumes == [(AGENT, "n1:boot:9", 7, phase, False, 0) for phase in ("claim", "grace")]
    assert bench.store.paid == [[b"owed"]]
    assert session.cursor == 7


async def test_how_long_tasks_waited_is_told_apart_by_whether_their_agent_was_there(bench: Bench) -> None:
    session = bench.connected(epoch=9, taken=0, unended=1)
    before, since = taken("t1", created_ms=NOW_MS - 90_000), taken("t2", first=2, created_ms=NOW_MS)
    bench.delivers(session, a_delivery([*before, *since]))
    bench.store.resumed = {"claim": [Resumed([], taken("t0"), 0)]}
    async with bench.running():
        bench.courier.start(session)
        await eventually(lambda: len(tasks_told(session)) < 3)
    waits = {kind: (sum(found.counts), found.total) for kind, found in bench.courier.waits.items()}
    assert waits == {"connected": (1, 0.0), "waited": (1, 90.0)}
    assert bench.counted == {"task_sent": 2, "task_redelivered": 1}


async def test_what_goes_out_is_counted_by_its_type(bench: Bench) -> None:
    session = bench.connected()
    tasks = [*taken("t1"), *taken("t2", "t3", batch="b", first=2)]
    bench.delivers(session, a_delivery(tasks, ["t0"], "1"))
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: len(link_of(session).sent) < 3)
    crew = session._crew
    assert {kind: flow.messages for kind, flow in crew.sent.items() if flow.messages} == {
        "task": 1, "tasks_batch": 1, "cancel": 1,
    }  # fmt: skip
    assert sum(flow.size_bytes for flow in crew.sent.values()) == sum(map(len, link_of(session).frames))


async def test_where_nothing_was_left_nothing_is_judged(bench: Bench) -> None:
    session = bench.connected(unended=0)
    async with bench.running():
        bench.courier.start(session)
        await eventually(lambda: not bench.store.takes)
        assert not bench.courier._resuming


async def test_the_place_of_the_claim_is_judged_and_not_that_of_later_takes(bench: Bench) -> None:
    session = bench.connected(taken=7, unended=1)
    bench.delivers(session, a_delivery(taken("t8", first=8), [], "0"))
    async with bench.running():
        bench.courier.start(session)
        await eventually(lambda: len(bench.store.resumes) < 2)
    assert {cursor for _, _, cursor, *_ in bench.store.resumes} == {7}


async def test_a_judgement_without_an_answer_is_asked_for_again_with_what_it_handed_out(bench: Bench) -> None:
    session = bench.connected(taken=7, unended=1)
    bench.store.resumed = {"claim": [None, None, Resumed([], taken("t3", first=3), 0)]}
    async with bench.running():
        bench.courier.start(session)
        await eventually(lambda: len(bench.store.resumes) < 4)
    assert [(phase, again) for *_, phase, again, _ in bench.store.resumes] == [
        ("claim", False), ("claim", True), ("claim", True), ("grace", False),
    ]  # fmt: skip
    assert tasks_told(session) == ["t3"]


async def test_what_comes_in_slices_is_asked_for_slice_by_slice_as_the_agent_reads(bench: Bench) -> None:
    session = bench.connected(taken=7, unended=3)
    slices: list[Resumed | None] = [
        Resumed([], taken("t1"), 1),
        Resumed([b"owed"], taken("t4", first=4), 4),
        Resumed([], taken("t6"), 0),
    ]
    bench.store.resumed = {"grace": slices}
    link_of(session).writable = False
    async with bench.running():
        bench.courier.start(session)
        await asyncio.sleep(0.05)
        assert bench.store.resumes == []  # what a slow reader is not to be sent is not marked either
        link_of(session).writable = True
        await eventually(lambda: tasks_told(session) != ["t1", "t4", "t6"])
    assert [after for *_, after in bench.store.resumes] == [0, 0, 1, 4]
    assert bench.store.paid == [[b"owed"]]


async def test_a_slice_without_an_answer_is_asked_for_again(bench: Bench) -> None:
    session = bench.connected(taken=7, unended=3)
    bench.store.resumed = {"claim": [Resumed([], taken("t1"), 1), None, Resumed([], taken("t4"), 0)]}
    async with bench.running():
        bench.courier.start(session)
        await eventually(lambda: tasks_told(session) != ["t1", "t4"])
    assert [(again, after) for *_, again, after in bench.store.resumes] == [(False, 0), (False, 1), (True, 1)]


async def test_a_session_that_is_gone_judges_nothing(bench: Bench) -> None:
    session = bench.connected(unended=1)
    async with bench.running():
        bench.courier.start(session)
        session.on_lost()
        await eventually(lambda: bench.courier._resuming)
    assert bench.store.resumes == []


async def test_ends_that_redis_does_not_take_stay_owed(bench: Bench) -> None:
    session = bench.connected(unended=1)
    bench.store.resumed = {"claim": [Resumed([b"owed"], taken("t1"), 0)]}
    bench.store.away["pay"] = 1
    async with bench.running():
        bench.courier.start(session)
        await eventually(lambda: len(bench.store.resumes) < 2)
    assert tasks_told(session) == ["t1"]
    assert bench.store.paid == []


# ---- before sockets are closed on purpose ----


async def test_who_leaves_is_written_what_was_marked_before_and_nothing_is_marked_after(bench: Bench) -> None:
    """A task that is marked for a socket which closes waits for the grace of the next one."""
    session, other = bench.connected(), bench.connected("other")
    bench.delivers(session, a_delivery(taken("1")), a_delivery(taken("2")))
    bench.store.open.clear()
    async with bench.running():
        bench.courier.ring(session)
        await eventually(lambda: "no take is under way" if not bench.store.takes else "")
        leaving = asyncio.create_task(bench.courier.leave([session]))
        await asyncio.sleep(0.02)
        assert not leaving.done()
        bench.store.open.set()
        await asyncio.wait_for(leaving, 5)
        assert tasks_told(session) == ["1"]
        bench.courier.ring(session)
        bench.courier.ring(other)
        await eventually(lambda: "the other one waits" if len(bench.store.takes) < 2 else "")
    assert [[take.agent_id for take in takes] for takes in bench.store.takes] == [[AGENT], ["other"]]


async def test_who_leaves_is_not_handed_again_what_earlier_sessions_had(bench: Bench) -> None:
    session = bench.connected(unended=1)
    async with bench.running():
        bench.courier.start(session)
        await bench.courier.leave([session])
        await asyncio.sleep(3 * GRACE_S)
    assert not bench.store.resumes


async def test_leaving_does_not_wait_for_takes_of_others(bench: Bench) -> None:
    session, other = bench.connected(), bench.connected("other")
    bench.store.open.clear()
    async with bench.running():
        bench.courier.ring(other)
        await eventually(lambda: "no take is under way" if not bench.store.takes else "")
        await asyncio.wait_for(bench.courier.leave([session]), 1)


async def test_an_order_for_the_node_itself_is_passed_on(bench: Bench) -> None:
    async with bench.running():
        bench.store.notes.put_nowait([Note("drain", "", data=b"500")])
        await eventually(lambda: "" if bench.orders else "no order")
    assert [order.kind for order in bench.orders] == ["drain"]
