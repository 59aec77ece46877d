"""The frames between agent and server: JSON text, one object each, in both directions.

Owns their shapes; knows neither sockets nor files. What the server sends is decoded leniently: unknown fields pass, null is absent.
`timestamp`, `started_at`, `finished_at` in seconds, `ts` in milliseconds.
"""

import contextlib
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from cluster.messages import MALFORMED, TaskSpec

SAID_CHARS = 200  # of what a server says of a refusal; the rest is cut

encode = msgspec.json.encode


class Incoming(Struct, frozen=True):
    """Whatever the server sends, told apart by `type`."""

    type: str | None = None
    message_id: str | None = None
    ack_id: str | None = None
    task: TaskSpec | None = None
    tasks: list[TaskSpec] | None = None
    task_id: str | None = None
    task_ids: list[str] | None = None
    payload: dict[str, Any] | None = None


class Refusal(Struct, frozen=True):
    """The body of a refused registration or handshake."""

    error: str | None = None


class Line(Struct, frozen=True, omit_defaults=True):
    """One line of a task's output."""

    timestamp: int
    level: str
    content: str
    stream: str
    task_id: str
    host_id: int = 0
    host_name: str = ""


class End(Struct, frozen=True):
    """How a task went: the `result` of a `task_result`. `exit_code` is -1 where there was none."""

    task_id: str
    status: str
    exit_code: int = -1
    log_size: int = 0
    started_at: int = 0
    finished_at: int = 0
    error_msg: str = ""
    error_code: int = 0


_incoming = msgspec.json.Decoder(Incoming).decode
_refusal = msgspec.json.Decoder(Refusal).decode


def decode(frame: bytes) -> Incoming | None:
    """A frame of the server, or None where it makes no sense to us: it is no reason to hang up."""
    try:
        return _incoming(frame)
    except MALFORMED:
        return None


def refusal(status: int, body: bytes) -> str:
    """What a refusal says, in one line: the status, and the body's `error` where it has one."""
    said = ""
    with contextlib.suppress(*MALFORMED):
        said = " ".join((_refusal(body).error or "").split())[:SAID_CHARS]
    return f"the server answers {status}: {said}" if said else f"the server answers {status}"


def new_id() -> str:
    """A message id that nobody uses twice."""
    return uuid.uuid4().hex


def ack(message_id: str) -> bytes:
    """Says that the tasks of a frame are here."""
    return encode({"type": "ack", "ack_id": message_id})


def heartbeat(system: dict[str, Any]) -> bytes:
    """A sign of life, with the host's state."""
    now_s = time.time()
    payload = {"timestamp": int(now_s), "system": system}
    return encode({"type": "heartbeat", "ts": int(now_s * 1000), "payload": payload})


def log(message_id: str, task_id: str, lines: Sequence[Line]) -> bytes:
    """Lines of a task's output."""
    return encode({"type": "log", "message_id": message_id, "ts": _now_ms(), "task_id": task_id, "logs": lines})


def result(message_id: str, end: End) -> bytes:
    """The end of a task."""
    message = {"type": "task_result", "message_id": message_id, "ts": _now_ms(), "task_id": end.task_id}
    return encode({**message, "result": end})


def _now_ms() -> int:
    return int(time.time() * 1000)
