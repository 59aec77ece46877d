"""The session against a plain model of it: whatever is said and done in whatever order, both hear, answer and end alike.

Regressions that the machine found stand at the end, each as a test of its own. `--long` looks further, from a seed that is told.
"""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster import close_codes, messages
from cluster.messages import LogLine, Result
from node.frames import text_frame
from node.session import ANSWER_EVERY_S, FLOOD_S, HEARTBEAT_BYTES, ID_CHARS, KNOWN_BATCHES, Patience
from tests.support.machines import Machines
from tests.unit.node.session_bench import NOW_MS, FakeCrew, FakeLink, a_claim, a_session, encode

ABSENT = object()
IDS = st.sampled_from([ABSENT, None, "", "a", "b", "\u00e9\u0000", "x" * ID_CHARS, "x" * (ID_CHARS + 1)])
TASKS = st.lists(st.sampled_from(["t1", "t2", "t3"]), min_size=1, max_size=3, unique=True).map(tuple)
PAYLOADS = st.sampled_from([ABSENT, None, {}, {"system": {"os": "linux"}}, {"x": "y" * HEARTBEAT_BYTES}, [], 1, "text"])
BROKEN = st.sampled_from(
    [b"", b"[]", b"null", b"1", b'"log"', b"{", b'{"type":1}', b'{"type":"log","logs":{}}', b'{"ts":9223372036854775808}',
     b'{"type":"task_result","result":{"exit_code":1.5}}', b"[" * 5000]
)  # fmt: skip
LINES = st.sampled_from([ABSENT, None, [], [{"content": "x"}], [{"content": "x"}, {"timestamp": 5}]])
RESULTS = st.sampled_from([ABSENT, None, {}, {"status": "success"}, {"status": "failed", "task_id": "inner"}])


@dataclass
class Expected:
    """What a session should have done by now."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    batches: dict[str, tuple[str, ...]] = field(default_factory=dict)
    heartbeat: bytes = b""
    answered_s: int = 0
    bad: int = 0
    pauses: int = 0
    is_attached: bool = True
    is_open: bool = True


@dataclass
class Flood:
    """Seconds of messages: how many in this one, and how many before it, without a gap, held too many."""

    limit: int
    second: int = 0
    count: int = 0
    in_row: int = 0

    def message(self, now_s: int) -> tuple[bool, bool]:
        """(reading is to pause, the connection is to end). The second after a pause may begin a second late."""
        if now_s != self.second:
            is_next = now_s - self.second <= 2
            self.in_row = self.in_row + 1 if is_next and self.count > self.limit else 0
            self.second, self.count = now_s, 0
        self.count += 1
        is_over = self.in_row >= FLOOD_S
        return self.count == self.limit + 1 and not is_over, is_over


def present(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not ABSENT}


def is_id(*texts: object) -> bool:
    return all(isinstance(text, str) and 0 < len(text) <= ID_CHARS for text in texts)


class SessionMachine(RuleBasedStateMachine):
    """One connection, from its upgrade to its end."""

    @initialize(bad=st.integers(1, 3), per_s=st.sampled_from([0, 0, 1, 2]))
    def begin(self, bad: int, per_s: int) -> None:
        self.crew, self.link, self.expected, self.flood = FakeCrew(), FakeLink(), Expected(), Flood(per_s)
        self.max_bad = bad
        self.session = a_session(self.crew, self.link, patience=Patience(bad, per_s))
        self.expected.calls.append(("attached",))

    # ---- what the agent says; the link hands nothing over once it is closing

    def says(self, payload: bytes) -> Expected:
        self.link.heard = self.link.wheel.now
        if self.flood.limit:
            pauses, ends = self.flood.message(self.link.wheel.now)
            if ends:
                self.closes(close_codes.FLOODS)
            elif pauses:
                self.expected.pauses += 1
                self.expected.calls.append(("flood",))
        self.session.on_message(payload)
        return self.expected

    def is_talking(self) -> bool:
        return self.expected.is_attached and self.expected.is_open

    @precondition(is_talking)
    @rule(message_id=IDS, task_id=IDS, logs=LINES)
    def log(self, message_id: object, task_id: object, logs: Any) -> None:
        said = self.says(encode({"type": "log", **present(message_id=message_id, task_id=task_id, logs=logs)}))
        if not isinstance(message_id, str) or not message_id:
            said.counted.append("without_message_id")
        elif logs in (ABSENT, None, []) or not is_id(message_id, task_id):
            self.acked_and_dropped(message_id)
        else:
            said.calls.append(("log", message_id, task_id, [LogLine(**line) for line in logs]))

    @precondition(is_talking)
    @rule(message_id=IDS, task_id=IDS, result=RESULTS)
    def result(self, message_id: object, task_id: object, result: Any) -> None:
        fields = present(message_id=message_id, task_id=task_id, result=result)
        said = self.says(encode({"type": "task_result", **fields}))
        is_there = isinstance(result, dict)
        meant = task_id if isinstance(task_id, str) and task_id else result.get("task_id") if is_there else None
        if not isinstance(message_id, str) or not message_id:
            said.counted.append("without_message_id")
        elif not is_there or not is_id(message_id, meant):
            self.acked_and_dropped(message_id)
        else:
            said.calls.append(("result", message_id, meant, Result(**result)))

    @precondition(is_talking)
    @rule(payload=PAYLOADS)
    def heartbeat(self, payload: object) -> None:
        said = self.says(encode({"type": "heartbeat", **present(payload=payload)}))
        if payload not in (ABSENT, None) and not isinstance(payload, dict):
            self.is_malformed()
            return
        raw = b"" if payload is ABSENT else encode(payload)
        if len(raw) <= HEARTBEAT_BYTES:
            said.heartbeat = raw
        if self.link.wheel.now - said.answered_s >= ANSWER_EVERY_S:
            self.sends(messages.heartbeat_answer(NOW_MS))
        said.calls.append(("heartbeat", said.heartbeat))

    @precondition(is_talking)
    @rule(ack_id=IDS | st.sampled_from(["batch-1", "batch-2"]))
    def ack(self, ack_id: object) -> None:
        said = self.says(encode({"type": "ack", **present(ack_id=ack_id)}))
        if is_id(ack_id):
            said.calls.append(("sign of life", said.batches.pop(str(ack_id), (ack_id,))))

    @precondition(is_talking)
    @rule(kind=st.sampled_from([ABSENT, None, "", "error", "ping", "LOG"]))
    def another(self, kind: object) -> None:
        self.says(encode(present(type=kind))).counted.append("ignored")

    @precondition(is_talking)
    @rule(seconds=st.integers(1, FLOOD_S), pause_s=st.sampled_from([1, 1, 1, 2, 3, 30]))
    def too_much(self, seconds: int, pause_s: int) -> None:
        """More than is borne, for so many seconds, with so much time from one to the next."""
        for _ in range(seconds * (self.flood.limit + 1)):
            if self.expected.is_open:
                self.says(b"{}").counted.append("ignored")
            if self.flood.count > self.flood.limit:
                self.link.wheel.now += pause_s

    @precondition(is_talking)
    @rule(payload=BROKEN)
    def broken(self, payload: bytes) -> None:
        self.says(payload)
        self.is_malformed()

    def is_malformed(self) -> None:
        self.expected.counted.append("malformed")
        self.expected.bad += 1
        if self.expected.bad >= self.max_bad:
            self.closes(close_codes.POLICY_VIOLATION)

    def acked_and_dropped(self, message_id: str) -> None:
        self.expected.counted.append("without_content")
        self.sends(messages.ack(message_id))

    # ---- what the node does, whenever it likes

    @rule(task=st.sampled_from(["t1", "t2"]))
    def task_goes_out(self, task: str) -> None:
        frame = messages.task(task, b"{}")
        self.session.send_frames(text_frame(frame))
        self.sends(frame)

    @rule(name=st.sampled_from(["batch-1", "batch-2"]), tasks=TASKS)
    def batch_is_noted(self, name: str, tasks: tuple[str, ...]) -> None:
        self.session.note_batch(name, tasks)
        self.expected.batches[name] = tasks

    @rule()
    def many_batches_are_noted(self) -> None:
        """So many that all before them are forgotten."""
        for number in range(KNOWN_BATCHES):
            self.session.note_batch(f"other-{number}", ("t1",))
        self.expected.batches = {f"other-{number}": ("t1",) for number in range(KNOWN_BATCHES)}

    @rule(seconds=st.sampled_from([1, 1, 1, 2, 3, 19, 20, 60]))
    def time_goes_by(self, seconds: int) -> None:
        self.link.wheel.now += seconds

    @rule(epoch=st.integers(6, 9), taken=st.integers(0, 5))
    def is_claimed_again(self, epoch: int, taken: int) -> None:
        self.session.own(a_claim(epoch, taken=taken, unended=taken))
        assert (self.session.owner, self.session.epoch) == (f"n1:boot:{epoch}", epoch)
        assert (self.session.cursor, self.session.claimed_at, self.session.unended) == (taken, taken, taken)

    @rule(code=st.sampled_from([close_codes.REPLACED, close_codes.RESTARTING]))
    def is_closed(self, code: int) -> None:
        self.session.close(code)
        self.closes(code)

    @rule()
    def is_aborted(self) -> None:
        self.session.abort()
        self.expected.is_open &= not self.expected.is_attached

    @precondition(lambda self: self.expected.is_attached)
    @rule()
    def is_lost(self) -> None:
        age_ms = (self.link.wheel.now - self.link.heard) * 1000
        self.session.on_lost()
        self.expected.is_attached = False
        self.expected.calls.append(("gone", age_ms))
        self.link.wheel.now += 7
        assert self.session.age_ms == age_ms

    def sends(self, payload: bytes) -> None:
        if self.expected.is_attached:
            self.expected.answered_s = self.link.wheel.now
            self.expected.sent.append(payload)

    def closes(self, code: int) -> None:
        if self.expected.is_attached:
            self.expected.closed.append(code)
            self.expected.is_open = False

    # ---- both are alike

    @invariant()
    def all_was_heard_and_said(self) -> None:
        assert self.crew.calls == self.expected.calls
        assert self.crew.counted == self.expected.counted
        assert self.link.sent == self.expected.sent
        assert self.link.closed == self.expected.closed
        assert self.link.pauses == self.expected.pauses
        assert self.session.heartbeat == self.expected.heartbeat
        assert self.session.is_writable == (self.expected.is_attached and self.expected.is_open)


def test_a_session_does_as_its_model(machines: Machines) -> None:
    machines.run("a session", SessionMachine, short=60, long=5_000, steps=40)


# ---- what it found


def test_bursts_with_quiet_between_them_are_no_flood() -> None:
    """Only seconds in a row count: a burst a minute ended the connection with the seventh of them."""
    link = FakeLink()
    session = a_session(link=link, patience=Patience(max_messages_per_s=1))
    for _ in range(2 * FLOOD_S):
        link.wheel.now += 60
        for _ in range(2):
            session.on_message(b"{}")
    assert link.closed == []
