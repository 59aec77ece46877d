"""What agents send reaches the feeds in order, once, and is acked after that and not before."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

from cluster import messages
from cluster.errors import StoreUnavailable
from cluster.feeds import Feeds, ResultEntry, result_entry
from cluster.keys import Keys
from cluster.mailbox import APPEND, APPEND_ALONE, Mailbox, Said
from cluster.messages import LogLine, Result
from cluster.outcomes import Outcomes
from cluster.redis_client import Store
from node import uplink as uplink_module
from node.frames import text_frame
from node.session import Session
from node.uplink import ASK_AGAIN_S, BATCH_BYTES, BATCH_ITEMS, FULL_BYTES, KNOWN_TASKS, LATE_MS, STATUS_CHARS, Uplink
from tests.support.eventually import eventually
from tests.unit.node.session_bench import AGENT, NOW_MS, a_session, link_of

ENDED_LONG_AGO = NOW_MS - LATE_MS - 1
SUCCESS = Result(status="success")
Verdict = Callable[[Said], int]


class FakeStore:
    """A mailbox and the feeds in memory, in two shards: what happens in one step is tried where Redis is. `fails[name]` is how often that call goes unanswered; what it wrote stays written."""

    keys = Keys("", 2)

    def __init__(self) -> None:
        self.verdict: Verdict = lambda said: APPEND if said.kind != "life" else 0
        self.settled: list[list[Said]] = []
        self.results: list[list[ResultEntry]] = []
        self.logs: list[list[tuple[str, str, list[list[str]]]]] = []
        self.paid_as: list[str] = []
        self.fails: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.open.set()

    async def _answer(self, call: str) -> None:
        await self.open.wait()
        if self.fails[call]:
            self.fails[call] -= 1
            raise StoreUnavailable(call)

    async def settle(self, said: Sequence[Said]) -> list[int]:
        self.settled.append(list(said))
        await self._answer("settle")
        return [self.verdict(item) for item in said]

    async def append_results(self, entries: Sequence[ResultEntry]) -> None:
        self.results.append(list(entries))
        await self._answer("append_results")

    async def append_logs(self, messages_: Sequence[tuple[str, str, list[list[str]]]]) -> None:
        self.logs.append(list(messages_))
        await self._answer("append_logs")

    async def paid(self, entries: Sequence[ResultEntry]) -> None:
        await self._answer("paid")
        self.paid_as += [entry.owed_as for entry in entries]


class Bench:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.counted: Counter[str] = Counter()
        self.ended: list[str] = []
        mailbox, feeds = cast("Mailbox", self.store), cast("Feeds", self.store)
        self.outcomes = Outcomes(cast("Store", self.store), mailbox, feeds)
        self.uplink = Uplink(
            self.outcomes, mailbox, feeds, now_ms=lambda: NOW_MS, count=self.count,
            on_end=lambda session: self.ended.append(session.agent_id),
        )  # fmt: skip

    def count(self, event: str, times: int) -> None:
        self.counted[event] += times

    def result(self, session: Session, message_id: str, task_id: str = "t1", result: Result = SUCCESS) -> None:
        self.uplink.put_result(session, message_id, task_id, result)

    def log(self, session: Session, message_id: str, task_id: str = "t1", *lines: str) -> None:
        self.uplink.put_log(session, message_id, task_id, [LogLine(content=line) for line in lines or ("x",)])

    async def drained(self) -> None:
        await asyncio.wait_for(asyncio.gather(self.uplink.results.caught_up(), self.uplink.logs.caught_up()), 5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loops = (self.uplink.results.run(), self.uplink.logs.run(), self.outcomes.pay())
        lanes = [asyncio.create_task(loop) for loop in loops]
        try:
            yield
            await self.drained()
            await eventually(lambda: self.outcomes._paid)
            await asyncio.sleep(0)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


FULL_ITEMS = 2000  # in these tests


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink_module, "RETRY_S", 0.001)
    monkeypatch.setattr(uplink_module, "FULL_ITEMS", FULL_ITEMS)


def acked(session: Session) -> list[str]:
    """The message ids that were acked, in order."""
    found = []
    for frames in link_of(session).frames:
        for payload in unframed(frames):
            answer = json.loads(payload)
            assert answer.keys() == {"type", "ack_id"}
            assert answer["type"] == "ack"
            found.append(answer["ack_id"])
    return found


def unframed(frames: bytes) -> Iterator[bytes]:
    while frames:
        assert frames[0] == 0x81
        assert frames[1] < 126
        yield frames[2 : 2 + frames[1]]
        frames = frames[2 + frames[1] :]


def fields_of(line: list[str]) -> dict[str, str]:
    return dict(zip(line[::2], line[1::2], strict=True))


# ---- order, batches, acks ----


async def test_an_idle_lane_writes_at_once_and_a_busy_one_batches_by_itself(bench: Bench) -> None:
    session = a_session()
    async with bench.running():
        bench.store.open.clear()
        bench.result(session, "m0")
        await eventually(lambda: not bench.store.settled)
        for n in range(1, 10):
            bench.result(session, f"m{n}")
        bench.store.open.set()
    assert [[said.message_id for said in call] for call in bench.store.settled] == [
        ["m0"], [f"m{n}" for n in range(1, 10)],
    ]  # fmt: skip
    assert acked(session) == [f"m{n}" for n in range(10)]


async def test_a_batch_is_bounded_by_its_items(bench: Bench) -> None:
    session = a_session()
    for n in range(2 * BATCH_ITEMS + 1):
        bench.log(session, f"m{n}")
    async with bench.running():
        pass
    assert [len(call) for call in bench.store.logs] == [BATCH_ITEMS, BATCH_ITEMS, 1]
    assert acked(session) == [f"m{n}" for n in range(2 * BATCH_ITEMS + 1)]


async def test_a_batch_is_bounded_by_its_bytes_and_one_item_of_any_size_goes(bench: Bench) -> None:
    session = a_session()
    for n, size in enumerate((5 * BATCH_BYTES, 1, BATCH_BYTES // 2, BATCH_BYTES // 2)):
        bench.log(session, f"m{n}", "t1", "x" * size)
    async with bench.running():
        pass
    assert [[message_id for _, message_id, _ in call] for call in bench.store.logs] == [["m0"], ["m1", "m2"], ["m3"]]


@pytest.mark.parametrize("waiting_in", ["settle", "append_results"])
async def test_nothing_is_acked_before_it_is_written(bench: Bench, waiting_in: str) -> None:
    session = a_session()
    bench.store.fails[waiting_in] = 10**9
    async with bench.running():
        bench.result(session, "m1")
        await eventually(lambda: bench.store.fails[waiting_in] > 10**9 - 3 and "it was not tried again")
        assert link_of(session).frames == []
        bench.store.fails.clear()
    assert acked(session) == ["m1"]


async def test_what_is_written_is_acked_though_nobody_could_mark_it_as_paid(bench: Bench) -> None:
    """It stays owed: a reaper finds it, and the feed knows it."""
    session = a_session()
    bench.store.fails["paid"] = 1
    async with bench.running():
        bench.result(session, "m1", "t1")
        await eventually(lambda: acked(session) != ["m1"])
        await eventually(lambda: bench.store.fails["paid"])
        bench.result(session, "m2", "t2")
        await eventually(lambda: not bench.store.paid_as)
    assert bench.store.paid_as == [f"r:{AGENT}:t2"]


async def test_log_lines_are_acked_after_their_write(bench: Bench) -> None:
    session = a_session()
    bench.store.open.clear()
    async with bench.running():
        bench.log(session, "m1")
        await eventually(lambda: not bench.store.settled)
        assert link_of(session).frames == []
        bench.store.open.set()
    assert acked(session) == ["m1"]


@pytest.mark.parametrize("unanswered", ["settle", "append_results"])
async def test_a_batch_that_redis_did_not_answer_is_tried_again_as_it_was(bench: Bench, unanswered: str) -> None:
    session = a_session()
    bench.store.fails[unanswered] = 2
    async with bench.running():
        bench.result(session, "m1", "t1")
        bench.result(session, "m2", "t2")
        await eventually(lambda: not bench.store.settled)
        bench.result(session, "m3", "t3")
    tries = [[said.message_id for said in call] for call in bench.store.settled]
    assert tries[:3] == [["m1", "m2"]] * 3
    assert tries[3:] == [["m3"]]
    assert acked(session) == ["m1", "m2", "m3"]
    assert bench.store.paid_as == [f"r:{AGENT}:t{n}" for n in (1, 2, 3)]


async def test_a_log_batch_that_redis_did_not_answer_is_tried_again_as_it_was(bench: Bench) -> None:
    session = a_session()
    bench.store.fails["append_logs"] = 2
    async with bench.running():
        bench.log(session, "m1", "t1", "a", "b")
        await eventually(lambda: not bench.store.logs)
        bench.log(session, "m2")
    assert bench.store.logs[0] == bench.store.logs[1] == bench.store.logs[2]
    assert [message_id for _, message_id, _ in bench.store.logs[3]] == ["m2"]
    assert acked(session) == ["m1", "m2"]


async def test_acks_of_a_batch_are_one_write_a_connection(bench: Bench) -> None:
    one, other = a_session(agent_id="one"), a_session(agent_id="other")
    for n in range(6):
        bench.result((one, other)[n % 2], f"m{n}", f"t{n}")
    async with bench.running():
        pass
    assert [len(link_of(session).writes) for session in (one, other)] == [1, 1]
    assert (acked(one), acked(other)) == (["m0", "m2", "m4"], ["m1", "m3", "m5"])


async def test_what_a_lost_connection_sent_is_written_all_the_same(bench: Bench) -> None:
    session = a_session()
    link = link_of(session)
    bench.result(session, "m1")
    bench.log(session, "m2")
    session.on_lost()
    async with bench.running():
        pass
    assert [entry.message_id for entry in bench.store.results[0]] == ["m1"]
    assert [message_id for _, message_id, _ in bench.store.logs[0]] == ["m2"]
    assert link.writes == []


async def test_results_do_not_wait_for_logs(bench: Bench) -> None:
    session = a_session()
    bench.store.fails["append_logs"] = 10**9
    async with bench.running():
        bench.log(session, "m1")
        bench.result(session, "m2")
        await eventually(lambda: acked(session) != ["m2"])
        bench.store.fails.clear()


async def test_an_error_of_ours_ends_the_lane_so_that_the_process_is_started_anew(bench: Bench) -> None:
    session = a_session()

    def broken(_: Said) -> int:
        raise KeyError

    bench.store.verdict = broken
    bench.result(session, "m1")
    with pytest.raises(KeyError):
        await asyncio.wait_for(bench.uplink.results.run(), 5)
    assert link_of(session).frames == []


# ---- a full lane ----


def filled(bench: Bench, session: Session) -> None:
    for n in range(FULL_ITEMS):
        bench.result(session, f"m{n}", f"t{n}")


async def test_a_full_lane_stops_reading_from_who_fills_it_and_from_no_other(bench: Bench) -> None:
    filler, idle, late = (a_session(agent_id=name) for name in ("filler", "idle", "late"))
    filled(bench, filler)
    assert not link_of(filler).is_paused
    bench.result(late, "one more")
    assert link_of(late).is_paused
    assert not link_of(idle).is_paused


async def test_a_lane_is_full_by_its_bytes_too(bench: Bench) -> None:
    session = a_session()
    bench.log(session, "m1", "t1", "x" * FULL_BYTES)
    assert link_of(session).is_paused


async def test_a_full_lane_takes_what_was_already_read_and_reads_on_when_half_empty(bench: Bench) -> None:
    session = a_session()
    filled(bench, session)
    bench.result(session, "last", "last")
    bench.store.open.clear()
    async with bench.running():
        await eventually(lambda: not bench.store.settled)
        assert link_of(session).is_paused
        bench.store.open.set()
        await bench.drained()
        assert not link_of(session).is_paused
    written = sum(len(call) for call in bench.store.results)
    assert written == FULL_ITEMS + 1
    assert acked(session)[-1] == "last"


async def test_reading_does_not_go_on_before_the_lane_is_half_empty(bench: Bench) -> None:
    session = a_session()
    filled(bench, session)
    bench.result(session, "last", "last")
    left_when_resumed: list[int] = []
    link = link_of(session)
    link.resume = lambda: left_when_resumed.append(len(bench.uplink.results))  # type: ignore[method-assign]
    async with bench.running():
        await bench.drained()
    assert len(left_when_resumed) == 1
    assert FULL_ITEMS // 2 - BATCH_ITEMS <= left_when_resumed[0] < FULL_ITEMS // 2


async def test_a_paused_connection_that_is_gone_is_not_read_from(bench: Bench) -> None:
    session = a_session()
    filled(bench, session)
    bench.result(session, "last", "last")
    session.on_lost()
    async with bench.running():
        await bench.drained()


# ---- results ----


@pytest.mark.parametrize(
    ("status", "kind"),
    [("success", "end"), ("failed", "end"), ("cancelled", "end"), ("running", "progress"), ("pending", "progress")],
)
async def test_only_success_failed_and_cancelled_are_ends(bench: Bench, status: str, kind: str) -> None:
    async with bench.running():
        bench.result(a_session(), "m1", "t1", Result(status=status))
    said = bench.store.settled[0][0]
    assert (said.kind, said.status, said.message_id, said.agent_id) == (kind, status, "m1", AGENT)
    assert bool(said.entry) == (kind == "end")
    assert [entry.status for entry in bench.store.results[0]] == [status]
    assert bool(bench.store.paid_as) == (kind == "end")


async def test_what_is_owed_knows_its_place_in_the_batch_that_settled_it(bench: Bench) -> None:
    """If this process dies here, a router pays in the order in which the agent said it."""
    session = a_session()
    for n in range(3):
        bench.result(session, f"m{n}", f"t{n}")
    async with bench.running():
        pass
    owed = [result_entry(said.entry.encode()) for said in bench.store.settled[0]]
    assert [(entry.message_id, entry.place) for entry in owed] == [("m0", 0), ("m1", 1), ("m2", 2)]


async def test_the_spurious_answer_is_a_sign_of_life_acked_and_not_written(bench: Bench) -> None:
    session = a_session()
    async with bench.running():
        bench.result(session, "m1", "t1", Result(status="cancelled", error_msg=messages.SKIPPED))
    assert [(said.kind, said.task_id) for said in bench.store.settled[0]] == [("life", "t1")]
    assert bench.store.results == [[]]
    assert acked(session) == ["m1"]


async def test_another_cancelled_result_is_an_end(bench: Bench) -> None:
    async with bench.running():
        bench.result(a_session(), "m1", "t1", Result(status="cancelled", error_msg="killed"))
    assert bench.store.settled[0][0].kind == "end"


async def test_what_settling_refuses_is_acked_and_not_written(bench: Bench) -> None:
    session = a_session()
    bench.store.verdict = lambda said: APPEND if said.message_id == "m2" else 0
    async with bench.running():
        for n in (1, 2, 3):
            bench.result(session, f"m{n}", "t1", Result(status="success"))
    assert [entry.message_id for entry in bench.store.results[0]] == ["m2"]
    assert acked(session) == ["m1", "m2", "m3"]
    assert bench.counted == {"result_end": 1, "result_not_written": 2}


async def test_a_sign_of_life_is_settled_and_nobody_is_acked(bench: Bench) -> None:
    session = a_session()
    async with bench.running():
        bench.uplink.put_sign_of_life(session, ("t1", "t2"))
    assert [(said.kind, said.task_id) for said in bench.store.settled[0]] == [("life", "t1"), ("life", "t2")]
    assert link_of(session).writes == []
    assert not bench.counted


async def entry_of(bench: Bench, task_id: str, result: Result) -> ResultEntry:
    async with bench.running():
        bench.result(a_session(), "m1", task_id, result)
    return bench.store.results[0][0]


async def test_an_entry_carries_what_the_agent_said(bench: Bench) -> None:
    result = Result(
        task_id="other", status="failed", exit_code=-9, log_size=10, log_pointer="s3:x", started_at=5, finished_at=7,
        error_msg="why", error_code=42,
    )  # fmt: skip
    assert await entry_of(bench, "t1", result) == ResultEntry(
        AGENT, "t1", "failed", "-9", "why", "42", "5", "7", "10", "s3:x", str(NOW_MS), "m1"
    )


async def test_a_status_that_is_none_is_cut(bench: Bench) -> None:
    assert (await entry_of(bench, "t1", Result(status="x" * 1_000_000))).status == "x" * STATUS_CHARS


async def test_what_a_result_does_not_say_is_empty_or_0(bench: Bench) -> None:
    found = await entry_of(bench, "t1", Result(status="success"))
    assert found == ResultEntry(AGENT, "t1", "success", "0", "", "0", "0", "0", "0", "", str(NOW_MS), "m1")


@pytest.mark.parametrize(
    ("size", "pointer", "written"),
    [(10, None, "redis:job_logs/t1@"), (10, "", "redis:job_logs/t1@"), (0, None, ""), (None, None, ""), (0, "x", "x")],
)
async def test_a_log_without_a_pointer_is_pointed_at(
    bench: Bench, size: int | None, pointer: str | None, written: str
) -> None:
    assert (
        await entry_of(bench, "t1", Result(status="success", log_size=size, log_pointer=pointer))
    ).log_pointer == written


async def test_ends_are_tallied_with_the_durations_that_were_told(bench: Bench) -> None:
    session = a_session()
    results = [
        Result(status="success", started_at=10, finished_at=12), Result(status="success"),
        Result(status="failed", started_at=10, finished_at=10), Result(status="cancelled", started_at=9, finished_at=3),
        Result(status="running", started_at=1, finished_at=2),
    ]  # fmt: skip
    async with bench.running():
        for n, result in enumerate(results):
            bench.result(session, f"m{n}", f"t{n}", result)
    tally = session.tally
    assert tally is not None
    assert (tally.success, tally.failed, tally.cancelled) == (2, 1, 1)
    assert (tally.timed, tally.duration_ms, tally.changed) == (2, 2000, True)
    assert bench.ended == [AGENT] * 4


async def test_an_end_that_is_not_written_is_not_tallied(bench: Bench) -> None:
    session = a_session()
    bench.store.verdict = lambda _: 0
    async with bench.running():
        bench.result(session, "m1")
    assert session.tally is None


async def test_a_batch_that_is_tried_again_is_tallied_once(bench: Bench) -> None:
    session = a_session()
    bench.store.fails.update(settle=1, append_results=1, paid=1)
    async with bench.running():
        bench.result(session, "m1")
    assert session.tally is not None
    assert session.tally.success == 1
    assert bench.counted == {"result_end": 1}


async def test_results_that_are_to_leave_nothing_behind_are_written_counted_and_spoken_of_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store.verdict = lambda said: APPEND_ALONE if said.task_id.startswith("unknown") else APPEND
    session = a_session()
    async with bench.running():
        for n in range(3):
            bench.result(session, f"m{n}", f"unknown {n}")
        bench.result(session, "m3", "known")
    entries = [entry for call in bench.store.results for entry in call]
    assert [entry.is_counted for entry in entries] == [False, False, False, True]
    assert acked(session) == ["m0", "m1", "m2", "m3"]
    assert (bench.counted["result_alone"], bench.counted["result_end"]) == (3, 4)
    assert len([line for line in caplog.messages if "nobody knows" in line]) == 1


# ---- tasks that Redis forgot ----


async def test_tasks_that_redis_forgot_end_behind_what_the_agent_said_and_nobody_is_acked(bench: Bench) -> None:
    session = a_session()
    for task_id in ("t1", "t2"):
        session.note_sent(task_id)
    bench.result(session, "m1", "t1")
    for _ in range(3):
        bench.uplink.put_lost(session)
    async with bench.running():
        pass
    assert [(said.kind, said.task_id, said.message_id) for said in bench.store.settled[0]] == [
        ("end", "t1", "m1"), ("lost", "t1", f"end:{AGENT}:t1"), ("lost", "t2", f"end:{AGENT}:t2"),
    ]  # fmt: skip
    owed = result_entry(bench.store.settled[0][2].entry)
    now_s = str(NOW_MS // 1000)
    assert (owed.status, owed.exit_code, owed.started_at, owed.finished_at) == ("failed", "-1", "0", now_s)
    assert owed.error_msg.startswith("lost")
    assert acked(session) == ["m1"]
    assert bench.store.paid_as[-1] == f"r:{AGENT}:t2"


async def test_what_ended_or_was_not_forgotten_is_not_lost(bench: Bench) -> None:
    bench.store.verdict = lambda said: APPEND if said.kind == "end" else 0
    session = a_session()
    for task_id in ("ended", "known"):
        session.note_sent(task_id)
    async with bench.running():
        bench.result(session, "m1", "ended")
        await bench.drained()
        bench.uplink.put_lost(session)
    assert [said.task_id for call in bench.store.settled for said in call if said.kind == "lost"] == ["known"]
    assert [entry.task_id for call in bench.store.results for entry in call] == ["ended"]
    assert bench.counted == {"result_end": 1}


async def test_an_end_that_is_not_written_is_an_end_all_the_same(bench: Bench) -> None:
    bench.store.verdict = lambda _: 0
    session = a_session()
    session.note_sent("t1")
    async with bench.running():
        bench.result(session, "m1", "t1")
    assert session.sent == ()


# ---- logs ----


async def line_of(bench: Bench, task_id: str, line: LogLine) -> dict[str, str]:
    async with bench.running():
        bench.uplink.put_log(a_session(), "m1", task_id, [line])
    return fields_of(bench.store.logs[0][0][2][0])


async def test_a_line_carries_what_the_agent_said(bench: Bench) -> None:
    line = LogLine(5, "warn", "text", "stderr", "ignored", 9, "web-1")
    assert await line_of(bench, "81_2_7_x", line) == {
        "execution_id": "81", "task_id": "81_2_7_x", "agent_id": AGENT, "content": "text", "timestamp": "5",
        "message_id": "m1", "stream": "stderr", "level": "warn", "host_id": "9", "host_name": "web-1",
    }  # fmt: skip


async def test_what_a_line_does_not_say_is_left_out(bench: Bench) -> None:
    assert await line_of(bench, "t1", LogLine()) == {
        "execution_id": "t1", "task_id": "t1", "agent_id": AGENT, "content": "", "timestamp": str(NOW_MS // 1000),
        "message_id": "m1",
    }  # fmt: skip


async def test_a_lines_host_comes_from_the_task_id_if_it_names_none(bench: Bench) -> None:
    assert (await line_of(bench, "81_2_7_x", LogLine(host_id=0)))["host_id"] == "7"


@pytest.mark.parametrize(("task_id", "execution"), [("81_2_7", "81"), ("abc_d", "abc"), ("abc", "abc"), ("_x", "")])
async def test_a_lines_execution_is_the_text_before_the_first_underscore(
    bench: Bench, task_id: str, execution: str
) -> None:
    assert (await line_of(bench, task_id, LogLine()))["execution_id"] == execution


async def test_the_lines_of_a_message_stay_together_and_in_order(bench: Bench) -> None:
    async with bench.running():
        bench.log(a_session(), "m1", "t1", "a", "b", "c")
    (agent_id, message_id, lines), *_ = bench.store.logs[0]
    assert (agent_id, message_id) == (AGENT, "m1")
    assert [fields_of(line)["content"] for line in lines] == ["a", "b", "c"]


async def test_ghosts_of_a_task_that_ended_long_ago_are_acked_counted_and_dropped(bench: Bench) -> None:
    session = a_session()
    bench.store.verdict = lambda said: ENDED_LONG_AGO if said.task_id == "old" else 0
    async with bench.running():
        bench.log(session, "m1", "old")
        bench.log(session, "m2", "t1")
    assert [message_id for _, message_id, _ in bench.store.logs[0]] == ["m2"]
    assert acked(session) == ["m1", "m2"]
    assert bench.counted == {"log_late": 1, "log": 1}


@pytest.mark.parametrize(
    "verdict", [0, -1, NOW_MS - LATE_MS, NOW_MS], ids=["open", "unknown", "15 min ago", "just now"]
)
async def test_lines_of_other_tasks_are_written(bench: Bench, verdict: int) -> None:
    bench.store.verdict = lambda _: verdict
    async with bench.running():
        bench.log(a_session(), "m1")
    assert len(bench.store.logs[0]) == 1


async def test_a_task_that_is_open_is_not_asked_about_with_every_line(bench: Bench) -> None:
    session = a_session()
    async with bench.running():
        for n in range(20):
            bench.log(session, f"m{n}")
            await bench.drained()
    assert len(bench.store.settled) == 1
    assert len(bench.store.logs) == 20


async def test_a_task_that_was_open_is_asked_about_again_after_a_while(bench: Bench) -> None:
    session = a_session()
    async with bench.running():
        bench.log(session, "m1")
        await bench.drained()
        link_of(session).wheel.now += ASK_AGAIN_S
        bench.log(session, "m2")
    assert [[said.task_id for said in call] for call in bench.store.settled] == [["t1"], ["t1"]]


async def test_after_its_end_a_task_is_asked_about_again(bench: Bench) -> None:
    session = a_session()
    async with bench.running():
        bench.log(session, "m1")
        await bench.drained()
        bench.result(session, "m2")
        await bench.drained()
        bench.store.verdict = lambda _: ENDED_LONG_AGO
        bench.log(session, "m3")
    assert [message_id for call in bench.store.logs for _, message_id, _ in call] == ["m1"]


async def test_a_task_is_late_for_the_agent_it_was_of_and_no_other(bench: Bench) -> None:
    one, other = a_session(agent_id="one"), a_session(agent_id="other")
    bench.store.verdict = lambda said: ENDED_LONG_AGO if said.agent_id == "one" else 0
    async with bench.running():
        bench.log(one, "m1")
        bench.log(other, "m2")
    assert [agent_id for agent_id, _, _ in bench.store.logs[0]] == ["other"]


async def test_the_tasks_known_to_be_open_are_bounded(bench: Bench) -> None:
    session = a_session()
    async with bench.running():
        for n in range(2 * KNOWN_TASKS):
            bench.log(session, f"m{n}", f"t{n}")
    assert len(session.live) <= KNOWN_TASKS


async def test_an_ack_frame_is_one_whole_text_message(bench: Bench) -> None:
    session = a_session()
    async with bench.running():
        bench.result(session, "x" * 200)
    assert link_of(session).frames == [text_frame(messages.ack("x" * 200))]


# ---- what is told of it


async def test_what_waits_for_its_ack_is_timed_and_what_wants_none_is_not(bench: Bench) -> None:
    session = a_session()
    bench.store.open.clear()
    async with bench.running():
        for n in range(40):
            bench.result(session, f"m{n}")
        bench.uplink.put_sign_of_life(session, ["t1", "t2"])
        lane = bench.uplink.results
        await eventually(lambda: lane.oldest_s < 0.05 and "not yet old")
        assert lane.size_bytes > 0
        assert sum(lane.waits.counts) == 0
        bench.store.open.set()
        await bench.drained()
        await eventually(lambda: sum(lane.waits.counts) != 40)
        assert sum(lane.waits.counts[:4]) == 0, "all waited for more than 10 ms"
        assert lane.waits.total >= 40 * 0.05
        assert (lane.oldest_s, lane.size_bytes) == (0.0, 0)
