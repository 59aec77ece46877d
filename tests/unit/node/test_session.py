"""One connection: what each message means, which frames answer it, and when it ends."""

import itertools
import json
from typing import Any

import pytest

from cluster import close_codes, messages
from cluster.messages import LogLine, Result
from node.frames import text_frame
from node.session import ANSWER_EVERY_S, FLOOD_S, KNOWN_BATCHES, SENT_TASKS, Patience
from tests.support import go_wire
from tests.unit.node.session_bench import AGENT, NOW_MS, FakeCrew, FakeLink, a_claim, a_session, encode, link_of


class Bench:
    """An attached session, with all that it touches."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.crew = FakeCrew()
        self.link = FakeLink()
        self.session = a_session(self.crew, self.link, patience=patience)
        self.crew.calls.clear()

    def says(self, **message: Any) -> None:
        self.session.on_message(encode(message))

    def at(self, second: int) -> None:
        self.link.wheel.now = second

    def answers(self) -> list[dict[str, Any]]:
        """What was sent, decoded as the agent does."""
        for payload in self.link.sent:
            go_wire.decode(payload)
        return [json.loads(payload) for payload in self.link.sent]


# ---- each message ----


def test_a_log_goes_to_the_crew_and_is_not_acked_here() -> None:
    bench = Bench()
    bench.says(type="log", message_id="m1", task_id="t1", logs=[{"content": "a", "timestamp": 5}, {"content": "b"}])
    lines = [LogLine(content="a", timestamp=5), LogLine(content="b")]
    assert bench.crew.calls == [("log", "m1", "t1", lines)]
    assert bench.link.writes == []


def test_a_result_goes_to_the_crew_and_is_not_acked_here() -> None:
    bench = Bench()
    bench.says(type="task_result", message_id="m1", task_id="t1", result={"status": "success", "exit_code": 0})
    assert bench.crew.calls == [("result", "m1", "t1", Result(status="success", exit_code=0))]
    assert bench.link.writes == []


@pytest.mark.parametrize(("outer", "inner", "meant"), [("t1", "t2", "t1"), (None, "t2", "t2"), ("", "t2", "t2")])
def test_a_results_task_is_the_messages_else_its_own(outer: str | None, inner: str, meant: str) -> None:
    bench = Bench()
    bench.says(type="task_result", message_id="m1", task_id=outer, result={"task_id": inner, "status": "success"})
    assert bench.crew.calls[0][:3] == ("result", "m1", meant)


@pytest.mark.parametrize("message_id", [None, ""])
@pytest.mark.parametrize(
    "message", [{"type": "log", "logs": [{"content": "x"}]}, {"type": "task_result", "result": {"status": "success"}}]
)
def test_without_a_message_id_it_is_dropped_counted_and_never_acked(
    message: dict[str, Any], message_id: str | None
) -> None:
    bench = Bench()
    bench.says(**message, task_id="t1", message_id=message_id)
    assert (bench.crew.calls, bench.link.writes) == ([], [])
    assert bench.crew.counted == ["without_message_id"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "log", "task_id": "t1"},
        {"type": "log", "task_id": "t1", "logs": []},
        {"type": "log", "task_id": "t1", "logs": None},
        {"type": "log", "logs": [{"content": "x"}]},
        {"type": "log", "task_id": "", "logs": [{"content": "x"}]},
        {"type": "task_result", "task_id": "t1"},
        {"type": "task_result", "task_id": "t1", "result": None},
        {"type": "task_result", "result": {"status": "success"}},
        {"type": "task_result", "task_id": "", "result": {"task_id": "", "status": "success"}},
    ],
    ids=str,
)
def test_without_content_it_is_acked_and_dropped(message: dict[str, Any]) -> None:
    bench = Bench()
    bench.says(**message, message_id="m1")
    assert bench.answers() == [{"type": "ack", "ack_id": "m1"}]
    assert bench.crew.calls == []
    assert bench.crew.counted == ["without_content"]


def test_an_ack_is_a_sign_of_life_of_its_task() -> None:
    bench = Bench()
    bench.says(type="ack", ack_id="t1")
    assert bench.crew.calls == [("sign of life", ("t1",))]
    assert bench.link.writes == []


@pytest.mark.parametrize("ack_id", [None, ""])
def test_an_ack_of_nothing_is_nothing(ack_id: str | None) -> None:
    bench = Bench()
    bench.says(type="ack", ack_id=ack_id)
    assert (bench.crew.calls, bench.crew.counted) == ([], [])


def test_the_ack_of_a_batch_is_a_sign_of_life_of_all_its_tasks() -> None:
    bench = Bench()
    bench.session.note_batch("batch:1", ("t1", "t2"))
    bench.says(type="ack", ack_id="batch:1")
    assert bench.crew.calls == [("sign of life", ("t1", "t2"))]


def test_batches_that_nobody_acks_are_not_remembered_for_ever() -> None:
    bench = Bench()
    for n in range(KNOWN_BATCHES + 1):
        bench.session.note_batch(f"batch:{n}", (f"t{n}",))
    bench.says(type="ack", ack_id="batch:1")
    bench.says(type="ack", ack_id="batch:0")
    assert bench.crew.calls == [("sign of life", ("t1",)), ("sign of life", ("batch:0",))]


@pytest.mark.parametrize("kind", ["hello", "task", "control", "", None, "LOG"])
def test_an_unknown_type_is_ignored_and_counted(kind: str | None) -> None:
    bench = Bench()
    bench.says(type=kind, message_id="m1", task_id="t1", logs=[{"content": "x"}])
    assert (bench.crew.calls, bench.link.writes, bench.crew.counted) == ([], [], ["ignored"])


def test_an_agent_speaks_for_itself_alone() -> None:
    bench = Bench()
    bench.says(type="task_result", message_id="m1", task_id="t1", agent_id="other", result={"status": "success"})
    assert bench.session.agent_id == AGENT
    assert "other" not in repr(bench.crew.calls)


# ---- heartbeats ----


@pytest.mark.parametrize("more", [{}, {"message_id": "m1"}, {"payload": None}, {"payload": {"timestamp": 5}}], ids=str)
def test_a_heartbeat_reaches_the_crew_and_is_never_acked(more: dict[str, Any]) -> None:
    bench = Bench()
    bench.says(type="heartbeat", **more)
    assert [call[0] for call in bench.crew.calls] == ["heartbeat"]
    assert bench.link.writes == []


def test_the_newest_heartbeats_payload_is_kept() -> None:
    bench = Bench()
    bench.says(type="heartbeat", payload={"system": {"os": "linux"}})
    bench.says(type="heartbeat", payload={"system": {"os": "bsd"}})
    assert bench.session.heartbeat == b'{"system":{"os":"bsd"}}'


def test_a_heartbeat_is_answered_only_after_20_s_without_a_data_frame() -> None:
    bench = Bench()
    bench.at(ANSWER_EVERY_S - 1)
    bench.says(type="heartbeat")
    assert bench.answers() == []
    bench.at(ANSWER_EVERY_S)
    bench.says(type="heartbeat")
    bench.says(type="heartbeat")
    assert bench.answers() == [{"type": "heartbeat", "ts": NOW_MS}]


@pytest.mark.parametrize("data", ["a message", "frames"])
def test_any_data_frame_takes_the_place_of_an_answer(data: str) -> None:
    bench = Bench()
    bench.at(15)
    match data:
        case "a message":
            bench.session.send(messages.cancel_task("t1"), "control")
        case _:
            bench.session.send_frames(text_frame(b"{}"))
    bench.at(15 + ANSWER_EVERY_S - 1)
    bench.says(type="heartbeat")
    assert len(bench.link.writes) == 1
    bench.at(15 + ANSWER_EVERY_S)
    bench.says(type="heartbeat")
    assert len(bench.link.writes) == 2


def test_an_agent_that_beats_every_30_s_hears_data_within_its_60_s() -> None:
    bench = Bench()
    heard = [0]
    for second in range(30, 600, 30):
        bench.at(second)
        before = len(bench.link.sent)
        bench.says(type="heartbeat")
        heard += [second] * (len(bench.link.sent) - before)
    assert max(after - before for before, after in itertools.pairwise(heard)) < 60


# ---- bad frames ----

BAD = [
    b"", b"x", b"5", b"null", b"[]", b'"log"', b'{"type":5}', b'{"type":"log","logs":{}}', b'{"type":"log"',
    b'{"type":"task_result","result":{"exit_code":"1"}}', b"[" * 100_000, b'{"ts":' + b"9" * 4000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("payload", BAD, ids=lambda payload: payload[:40].decode() or "empty")
def test_a_bad_frame_is_dropped_and_counted(payload: bytes) -> None:
    bench = Bench()
    bench.session.on_message(payload)
    assert (bench.crew.counted, bench.crew.calls, bench.link.writes) == (["malformed"], [], [])
    assert bench.link.is_open


def test_too_many_bad_frames_end_the_connection_with_1008() -> None:
    bench = Bench(Patience(max_bad_frames=3))
    for payload in BAD[:2]:
        bench.session.on_message(payload)
    assert bench.link.closed == []
    bench.session.on_message(BAD[2])
    assert bench.link.closed == [close_codes.POLICY_VIOLATION]


def test_good_and_unknown_frames_are_no_bad_ones() -> None:
    bench = Bench(Patience(max_bad_frames=1))
    for message in ({"type": "heartbeat"}, {"type": "unknown"}, {"type": "log", "task_id": "t1"}, {}):
        bench.says(**message)
    assert bench.link.is_open


# ---- floods ----


def beats(bench: Bench, messages_: int) -> None:
    for _ in range(messages_):
        bench.says(type="heartbeat")


def test_without_a_limit_any_number_of_messages_is_taken() -> None:
    bench = Bench()
    beats(bench, 10_000)
    assert (bench.link.pauses, bench.link.closed) == (0, [])


def test_more_messages_than_the_limit_stop_the_reading_for_that_second() -> None:
    bench = Bench(Patience(max_messages_per_s=10))
    beats(bench, 10)
    assert bench.link.pauses == 0
    beats(bench, 5)  # already read when it was stopped
    assert bench.link.pauses == 1
    assert [call for call in bench.crew.calls if call[0] == "flood"] == [("flood",)]
    bench.at(1)
    beats(bench, 10)
    assert bench.link.pauses == 1


def test_what_was_read_beyond_the_limit_is_not_dropped() -> None:
    bench = Bench(Patience(max_messages_per_s=2))
    beats(bench, 5)
    assert [call[0] for call in bench.crew.calls].count("heartbeat") == 5


def test_who_floods_on_is_closed_with_4429() -> None:
    bench = Bench(Patience(max_messages_per_s=10))
    for second in range(FLOOD_S + 1):
        bench.at(second)
        assert bench.link.closed == []
        beats(bench, 11)
    assert bench.link.closed[0] == close_codes.FLOODS


def test_a_calm_second_makes_up_for_floods_before_it() -> None:
    bench = Bench(Patience(max_messages_per_s=10))
    for second in range(10 * FLOOD_S):
        bench.at(second)
        beats(bench, 5 if second % FLOOD_S == 0 else 11)
    assert bench.link.closed == []


# ---- what it was sent ----


def test_of_tasks_that_were_sent_the_newest_that_did_not_end_are_known() -> None:
    session = a_session()
    assert session.sent == ()
    session.note_end("t0")
    for n in range(SENT_TASKS + 2):
        session.note_sent(f"t{n}")
    session.note_end("t5")
    session.note_end("nobody's")
    assert session.sent == tuple(f"t{n}" for n in range(2, SENT_TASKS + 2) if n != 5)


# ---- its life ----


def test_a_session_takes_its_place_from_its_claim() -> None:
    session = a_session(claim=a_claim(7, taken=12, unended=3))
    assert (session.owner, session.epoch, session.cursor, session.claimed_at, session.unended) == (
        "n1:boot:7", 7, 12, 12, 3,
    )  # fmt: skip
    session.own(a_claim(9))
    assert (session.owner, session.epoch, session.cursor, session.unended) == ("n1:boot:9", 9, 0, 0)


def test_attaching_tells_the_crew() -> None:
    crew = FakeCrew()
    a_session(crew)
    assert crew.calls == [("attached",)]


def test_writable_again_tells_the_crew() -> None:
    bench = Bench()
    bench.session.on_writable()
    assert bench.crew.calls == [("writable",)]


def test_its_age_is_since_the_last_byte_and_stays_when_it_is_lost() -> None:
    bench = Bench()
    bench.link.heard = 3
    bench.at(10)
    assert bench.session.age_ms == 7000
    bench.session.on_lost()
    bench.at(100)
    assert bench.session.age_ms == 7000
    assert bench.crew.calls == [("gone", 7000)]


@pytest.mark.parametrize("state", ["reads", "does not read", "is closing", "is gone", "is not there yet"])
def test_tasks_may_be_handed_only_to_who_is_there_and_reads(state: str) -> None:
    session = a_session(attached=state != "is not there yet")
    match state:
        case "does not read":
            link_of(session).writable = False
        case "is closing":
            link_of(session).is_open = False
        case "is gone":
            session.on_lost()
    assert session.is_writable == (state == "reads")


def test_what_is_said_to_a_lost_connection_is_said_to_nobody() -> None:
    bench = Bench()
    bench.session.on_lost()
    bench.session.send(b"x", "control")
    bench.session.send_frames(b"x")
    bench.session.close(close_codes.REPLACED)
    bench.says(type="log", message_id="m1")
    bench.says(type="heartbeat")
    assert (bench.link.writes, bench.link.closed) == ([], [])


@pytest.mark.parametrize("reason", ["drained", "revoked", "heartbeat_timeout"])
def test_who_closes_it_says_what_its_end_is_called(reason: str) -> None:
    bench = Bench()
    bench.session.close(close_codes.RESTARTING, reason)
    assert (bench.link.closed, bench.session.reason) == ([close_codes.RESTARTING], reason)


def test_an_end_that_nobody_asked_for_is_a_closed_socket() -> None:
    bench = Bench()
    bench.session.on_lost()
    assert bench.session.reason == "websocket_closed"


def test_a_session_weighs_little() -> None:
    assert not hasattr(a_session(), "__dict__")
