"""Everything that reads what others wrote, in this process: whatever it is given, it takes it, or refuses it in its own words.

An input is a valid one that was changed, or noise (tests/support/mutation.py). What is taken is used as the node or router would use it.
`FUZZ_SEED=7 pytest --long` tries many, from a seed that is told; else a few, the same each time.
"""

import contextlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import pytest

from cluster import messages, registration, verification
from cluster.config import load, without_effect
from cluster.debts import AGE_S, _ended_at, _said_at, _Shard
from cluster.errors import BadInput, ConfigError
from cluster.feeds import Feeds, offline_entry, offline_status, result_entry
from cluster.inbox import Inbox, _note
from cluster.mailbox import Mailbox
from cluster.messages import CancelBatch, Control, Registration
from cluster.messages import Upgrade as UpgradeOrder
from cluster.nodes import node_of
from cluster.outcomes import Outcomes, said
from cluster.registry import Owner
from cluster.security import Signer
from node import deflate, upgrade
from node.delivery import Courier
from node.frames import Violation
from node.hub import Hub
from node.reader import Reader
from node.reports import _online
from node.session import Patience, Session
from node.uplink import Uplink
from tests.faults.besieged import MIB, memory_bytes
from tests.faults.finding import Finding
from tests.support import go_wire
from tests.support.config_text import GO_FILE
from tests.support.mutation import Mutator, pieces
from tests.support.said import Say
from tests.unit.node.frame_text import CLOSE, CONTINUATION, PING, TEXT, close, deflated, frame, text
from tests.unit.node.session_bench import AGENT, NOW_MS, FakeCrew, FakeLink, a_session, link_of

Read = Callable[[bytes], object]


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


# ---- what agents say


class Listening(FakeCrew):
    """A crew with a real uplink, whose lanes nobody empties but a test."""

    def __init__(self) -> None:
        super().__init__()
        self.uplink = Uplink(
            cast("Outcomes", None),
            cast("Mailbox", None),
            cast("Feeds", None),
            now_ms=self.now_ms,
            count=lambda *_: None,
            on_end=lambda _: None,
        )

    def on_log(self, session: Session, message_id: str, task_id: str, lines: list[messages.LogLine]) -> None:
        self.uplink.put_log(session, message_id, task_id, lines)
        item = self.uplink.logs._queue.pop()
        assert all(isinstance(part, str) for pairs in item.lines for part in pairs)
        msgspec.json.encode(item.lines)

    def on_result(self, session: Session, message_id: str, task_id: str, result: messages.Result) -> None:
        self.uplink.put_result(session, message_id, task_id, result)
        told = said(self.uplink.results._queue.pop().told)
        assert told.kind != "end" or result_entry(told.entry.encode()).task_id == task_id
        messages.execution_of(task_id)

    def on_sign_of_life(self, session: Session, task_ids: tuple[str, ...]) -> None:
        self.uplink.put_sign_of_life(session, task_ids)
        msgspec.json.encode([said(self.uplink.results._queue.pop().told) for _ in task_ids])

    def on_heartbeat(self, session: Session) -> None:
        entry = _online(session, NOW_MS)
        msgspec.json.encode(entry)


HEARTBEAT = {
    "timestamp": 5, "system": {
        "hostname": "web", "os": "linux", "arch": "amd64", "cpu_usage": 1.5, "memory_usage": 2, "memory_total": 3, "memory_used": 4,
        "disk_usage": {"/": 5}, "load_avg": [0.1, 0.2, 0.3], "uptime": 9,
    },
}  # fmt: skip
LINE = {
    "timestamp": 5,
    "level": "info",
    "content": "x",
    "stream": "stdout",
    "task_id": "7_1_1_a",
    "host_id": "1",
    "host_name": "w",
}
RESULT = {
    "task_id": "7_1_1_a", "status": "success", "exit_code": 0, "log": "x", "log_size": 1, "log_pointer": "p", "started_at": 1,
    "finished_at": 2, "error_msg": "e", "error_code": 3,
}  # fmt: skip
AGENT_MESSAGES = [
    encoded({"type": "log", "message_id": "m", "task_id": "7_1_1_a", "logs": [LINE, LINE], "ts": 1}),
    encoded({"type": "task_result", "message_id": "m", "task_id": "7_1_1_a", "result": RESULT}),
    encoded({"type": "heartbeat", "payload": HEARTBEAT}),
    encoded({"type": "ack", "ack_id": "7_1_1_a", "request_id": "r", "error": {"code": 1, "message": "x"}}),
]


def agent_message() -> Read:
    def read(data: bytes) -> None:
        link = FakeLink()
        session = a_session(Listening(), link, patience=Patience(max_bad_frames=2))
        session.on_message(data)
        for payload in link.sent:
            go_wire.decode(payload)

    return read


# ---- what control planes say

TASK = {
    "id": "7_1_1_a", "name": "n", "type": "script", "command": "uptime", "script_type": "bash", "work_dir": "/", "run_as": "root",
    "execution_id": "7", "step_id": "1", "parent_task_id": "p", "args": ["a", None], "env": {"A": "b", "C": None}, "timeout_sec": 5,
    "host_id": 1, "retry_count": 0, "is_retry": False, "file_transfer": {
        "remote_path": "/a", "download_url": "http://x/", "checksum": "c", "auth_headers": {"a": "b"}, "bandwidth_limit": 1, "size": 2,
    },
}  # fmt: skip
REGISTRATION = {
    "name": "web",
    "token": "t-1",
    "labels": {"a": "b"},
    "system": {"hostname": "h", "os": "linux", "arch": "a"},
    "host_id": 7,
}


def is_refused(call: Callable[[], object]) -> bool:
    """Whether the input is bad; the words name a field, in one line."""
    error = error_of(call, BadInput)
    return error != ""


def error_of(call: Callable[[], object], kind: type[Exception]) -> str:
    """In which words the input was refused, on one line; "" when it was not."""
    try:
        call()
    except kind as error:
        text = str(error)
    else:
        return ""
    assert text
    assert text.isprintable()
    return text


def task() -> Read:
    def read(data: bytes) -> None:
        """What is accepted, a Go agent can decode: what it cannot would cost it its connection."""
        if not is_refused(lambda: messages.new_task(data)):
            accepted = messages.new_task(data)
            _, tasks = go_wire.decode(messages.task(accepted.id, accepted.json.encode()))
            assert [found.id for found, _ in tasks] == [accepted.id]
            messages.execution_of(accepted.id)

    return read


def tasks() -> Read:
    def read(data: bytes) -> None:
        if not is_refused(lambda: messages.new_tasks(data)):
            accepted = messages.new_tasks(data)
            go_wire.decode(messages.tasks_batch("b", [found.json.encode() for found in accepted]))

    return read


def call_bodies() -> Read:
    def read(data: bytes) -> None:
        for kind in (Control, UpgradeOrder, CancelBatch):
            if not is_refused(partial(messages.decoded, kind, data)):
                body = messages.decoded(kind, data)
                if isinstance(body, UpgradeOrder):
                    go_wire.decode(messages.upgrade(body))

    return read


def registration_body() -> Read:
    scope = {"headers": [(b"authorization", b"Bearer abc")]}

    def read(data: bytes) -> None:
        if is_refused(lambda: messages.decoded(Registration, data)):
            return
        body = messages.decoded(Registration, data)
        if not is_refused(lambda: registration._token(scope, body)):
            token, _ = registration._token(scope, body)
            msgspec.json.decode(verification.shown(data, token))
        name, host_id, labels, system = registration._profile(body)
        assert len(msgspec.json.encode([name, host_id, labels])) < 6 * 256 * 202
        assert len(msgspec.json.encode(system)) <= registration.SYSTEM_BYTES

    return read


def signature_headers() -> Read:
    signer = Signer("secret", 300)
    good = signer.sign("1700000000", "POST", "/api/agents/1/tasks/", b"{}")

    def read(data: bytes) -> None:
        """Timestamp, signature and path, a line each."""
        timestamp, said, path = (*data.split(b"\n"), b"", b"")[:3]
        path_text = path.decode(errors="surrogateescape")
        refusal = signer.refusal(
            timestamp.decode("latin-1"), said.decode("latin-1"), "POST", path_text, b"{}", 1_700_000_000.0
        )
        assert bool(refusal) != (data.split(b"\n")[:3] == [b"1700000000", good.encode(), b"/api/agents/1/tasks/"])

    return read


SIGNED = b"\n".join(
    [b"1700000000", Signer("secret", 300).sign("1700000000", "POST", "/api/agents/1/tasks/", b"{}").encode(), b"/api/agents/1/tasks/"]
)  # fmt: skip


# ---- the wire


class Heard:
    """Takes what a reader says."""

    def on_message(self, payload: bytes) -> None:
        payload.decode()

    def on_ping(self, payload: bytes) -> None:
        assert len(payload) <= 125

    def on_close(self, code: int) -> None:
        assert 1000 <= code < 5000


FRAMES = [
    text(b'{"type":"heartbeat"}') + frame(PING, b"x"),
    frame(TEXT, deflated(b'{"type":"ack","ack_id":"a"}' * 9), rsv=4) + close(1000, b"bye"),
    frame(TEXT, b"a" * 200, fin=False) + frame(PING) + frame(CONTINUATION, "\u00e4".encode() * 90),
    frame(TEXT, deflated(b"x" * 70_000), rsv=4, fin=False) + frame(CONTINUATION, b"") + frame(CLOSE),
    text(b"x" * 70_000),
]


def frames() -> Read:
    chance = random.Random(3)

    def read(data: bytes) -> None:
        heard = Heard()
        reader = Reader(heard, heard, 100_000, is_deflated=True)
        try:
            for piece in pieces(chance, data):
                reader.feed(piece, chance.choice((1, 2, 1 << 30)))
                while reader.has_rest:
                    reader.feed(b"", 2)
            assert reader.held_bytes <= 100_000 + 20 + len(data)
        except Violation:
            reader.forget()

    return read


def inflated() -> Read:
    def read(data: bytes) -> None:
        with contextlib.suppress(Violation):
            assert len(deflate.inflate(data, 5000)) <= 5000
        deflate.is_acceptable(data)

    return read


UPGRADE = (
    b"GET /ws/agent/%s?a=b HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nsec-websocket-protocol: agent-token, abc\r\n"
    b"sec-websocket-extensions: permessage-deflate; client_max_window_bits, permessage-deflate" % AGENT.encode()
)


def handshake_head() -> Read:
    def read(data: bytes) -> None:
        try:
            found = upgrade.read_upgrade(data)
        except upgrade.Refusal as refusal:
            upgrade.refusal(refusal.status, refusal.headers, upgrade.error_body(1, str(refusal)))
            return
        offered = found.subprotocols()
        answer = upgrade.switching(found.key, offered[0] if offered else None, deflated=found.offers_deflate())
        assert answer.count(b"\r\n\r\n") == 1

    return read


# ---- configuration


def config_file(folder: Path) -> Read:
    path = folder / "given.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        error_of(lambda: without_effect(load(str(path), environ={})), ConfigError)

    return read


def config_environment() -> Read:
    def read(data: bytes) -> None:
        """A key and a value, as the environment holds them."""
        key, _, value = data.decode(errors="surrogateescape").replace("\0", "").partition("=")
        error_of(lambda: repr(load(environ={key: value}, flags={"logging.level": value})), ConfigError)

    return read


ENVIRONMENT = [
    b"AGENT_SERVER_SERVER_PORT=8080", b"AGENT_SERVER_REDIS_URL=redis://:pw@host:6379/0", b"AGENT_SERVER_AGENT_HEARTBEAT_TIMEOUT=1m30s",
    b"AGENT_SERVER_SERVER_TRUSTED_PROXIES=10.0.0.0/8,::1", b"AGENT_SERVER_SERVER_MAX_BODY=16MiB", b"CONTROL_PLANE_URL=http://x:1/",
    b"AGENT_SERVER_SERVER_PUBLIC_URL=wss://[::1]:1/a", b"AUTH_SHARED_SECRET_FILE=/dev/null", b"LOGGING_LEVEL=warn",
    b"AGENT_SERVER_REDIS_ADDR=[::1]:6379",
]  # fmt: skip


# ---- what a process reads back from Redis, which others may have written into


def notes() -> Read:
    courier = Courier(
        "n1", hub := Hub(), cast("Inbox", None), cast("Mailbox", None), cast("Feeds", None),
        redelivery_grace_s=1, now_ms=lambda: 0, count=lambda _: None,
    )  # fmt: skip

    def read(data: bytes) -> None:
        names = (b"agent", b"kind", b"epoch", b"data", b"deadline")
        found = _note(dict(zip(names, data.split(b"|"), strict=False)))
        if found is not None:
            session = a_session(agent_id=AGENT)
            hub.add(session)
            courier._on_note(found)
            assert all(1000 <= code < 5000 for code in link_of(session).closed)

    return read


NOTES = [
    b"|".join([AGENT.encode(), *rest]) for rest in ([b"ring"], [b"send", b"5", b"x", b"9"], [b"close", b"5", b"4409"])
]


def nodes() -> Read:
    def read(data: bytes) -> None:
        row = dict(pair.partition(b"=")[::2] for pair in data.split(b"|"))
        node_of("n1", {b"boot": b"b", **row})

    return read


def debts() -> Read:
    shard = _Shard("unfed")

    def read(data: bytes) -> None:
        """A field and its entry: what is due can be sorted and written."""
        field, _, raw = data.partition(b"|")
        shard.due({field: raw}, 0)
        for kind, due in shard.due({field: raw}, AGE_S).items():
            if kind[:1] == b"r":
                _said_at(due)
            else:
                _ended_at(due)
                offline_status(offline_entry(due))

    return read


DEBTS = [
    b'r:a:t|["a","t","success","0","","0","1","2","0","","3000","m",1]',
    b's:a:5|["a","web","7","node_lost","1000","2000","h","linux","amd64","5"]',
]


def owner() -> Read:
    def read(data: bytes) -> None:
        found = Owner.parse(data)
        assert found is None or Owner.parse(str(found).encode()) == found

    return read


TARGETS: Mapping[str, tuple[Callable[..., Read], list[bytes]]] = {
    "agent messages": (agent_message, AGENT_MESSAGES),
    "a task": (task, [encoded(TASK), encoded({"id": "a"})]),
    "tasks": (tasks, [encoded([TASK, {"id": "b"}]), encoded([{"id": "a"}])]),
    "bodies of calls": (
        call_bodies,
        [encoded({"action": "stop", "reason": "r"}), encoded({"target_version": "1", "download_url": "u", "md5_hash": "m"}),
         encoded({"task_ids": ["a", "b"]})],
    ),
    "registrations": (registration_body, [encoded(REGISTRATION)]),
    "signatures": (signature_headers, [SIGNED]),
    "frames": (frames, FRAMES),
    "deflate": (inflated, [deflated(b"hello " * 99), deflated(bytes(range(256))), deflate.ANSWER]),
    "handshakes": (handshake_head, [UPGRADE]),
    "config.yaml": (config_file, [GO_FILE.encode(), b"server: {port: 1, trusted_proxies: [10.0.0.1]}\nredis: {enabled: true}"]),
    "the environment": (config_environment, ENVIRONMENT),
    "notes of an inbox": (notes, NOTES),
    "nodes of the directory": (nodes, [b"boot=b|state=ready|load=5|pid=1|machine=m|handover=/a|address=x:1|admin=y:1"]),
    "what is owed": (debts, DEBTS),
    "owners": (owner, [b"n1:b00t:1700000000000"]),
}  # fmt: skip


@dataclass
class Plan:
    """How many inputs each target gets."""

    seed: int
    share: Mapping[str, float]
    count: int

    def of(self, name: str) -> int:
        return int(self.count * self.share.get(name, 1.0))


GROWN_MIB = 32.0  # in which an allocator finds its size; a leak of 500 bytes an input would be more
SLOW = {"config.yaml": 0.03, "the environment": 0.03}  # they take milliseconds


@pytest.fixture
def plan(is_long: bool, say: Say) -> Plan:
    seed = int(os.environ.get("FUZZ_SEED") or (random.getrandbits(32) if is_long else 1))
    if is_long:
        say(f"FUZZ_SEED={seed}")
    return Plan(seed, SLOW, 80_000 if is_long else 1_500)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_taken_or_refused(
    name: str, plan: Plan, tmp_path: Path, finding: Finding, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # what is kept of each complaint would look like a leak
    finding.about("fuzz", f"{name}: valid ones changed, and noise", "in this process")
    finding.seed = str(plan.seed)
    make, seeds = TARGETS[name]
    read = make(tmp_path) if make is config_file else make()
    mutator = Mutator(random.Random(f"{plan.seed} {name}"), seeds)
    for seed in seeds:
        read(seed)
    began_s, count, before_bytes = time.monotonic(), plan.of(name), memory_bytes(os.getpid())
    for number in range(count):
        data = mutator.next()
        try:
            read(data)
        except BaseException as error:
            error.add_note(f"input {number} of {name}, seed {plan.seed}: {data[:2000]!r}")
            raise
    finding.tried(count)
    grown_mib = (memory_bytes(os.getpid()) - before_bytes) / MIB
    finding.measured("all read after", time.monotonic() - began_s)
    finding.measured("memory grew by", grown_mib, f"<= {GROWN_MIB:g} MiB", unit="MiB")
    assert grown_mib <= GROWN_MIB
