"""What a Go agent reads and writes: protocol.md, section 1.3, with the strictness of Go's encoding/json.

Written down here a second time on purpose, beside the product's own structs: an agent that shared them would share their mistakes. What
Go refuses to decode raises `UndecodableError`; unknown fields pass, null is absent, ints are 64-bit and never floats. Times in seconds,
`ts` in ms.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
SKIPPED = "task skipped as duplicated (already completed)"
ENDS = frozenset({"success", "failed", "cancelled"})
_NULL = Raw(b"null")


class UndecodableError(ValueError):
    """The Go agent drops its connection on this frame."""


# ---- read ----


class FileTransfer(Struct, frozen=True, gc=False):
    """As Go decodes it."""

    remote_path: str | None = None
    download_url: str | None = None
    checksum: str | None = None
    auth_headers: dict[str, str | None] | None = None
    bandwidth_limit: Int | None = None
    size: Int | None = None


class Task(Struct, frozen=True, gc=False):
    """TaskSpec as Go decodes it."""

    id: str | None = None
    name: str | None = None
    type: str | None = None
    command: str | None = None
    script_type: str | None = None
    work_dir: str | None = None
    run_as: str | None = None
    execution_id: str | None = None
    step_id: str | None = None
    parent_task_id: str | None = None
    args: list[str | None] | None = None
    env: dict[str, str | None] | None = None
    timeout_sec: Int | None = None
    host_id: Int | None = None
    retry_count: Int | None = None
    is_retry: bool | None = None
    file_transfer: FileTransfer | None = None


class PeerError(Struct, frozen=True, gc=False):
    """The `error` object."""

    code: Int | None = None
    message: str | None = None


class Incoming(Struct, frozen=True, gc=False):
    """A frame of the server. The tasks in it are kept as bytes; `tasks_of` decodes them."""

    type: str | None = None
    message_id: str | None = None
    ack_id: str | None = None
    task: Raw = _NULL
    tasks: list[Raw] | None = None
    task_id: str | None = None
    task_ids: list[str | None] | None = None
    payload: dict[str, Any] | None = None
    ts: Int | None = None
    request_id: str | None = None
    error: PeerError | None = None


_INCOMING = msgspec.json.Decoder(Incoming)
_TASK: msgspec.json.Decoder[Task | None] = msgspec.json.Decoder(Task | None)


def decode(payload: bytes) -> tuple[Incoming, list[tuple[Task, bytes]]]:
    """A frame, and its tasks with their bytes. Raises: UndecodableError."""
    try:
        message = _INCOMING.decode(payload)
        raws = [bytes(raw) for raw in (message.task, *(message.tasks or ()))]
        tasks = [(task, raw) for raw in raws if (task := _TASK.decode(raw)) is not None]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableError(str(error)) from error
    return message, tasks


# ---- written ----


class LogLine(Struct, frozen=True, gc=False, omit_defaults=True):
    """One line of output."""

    timestamp: int
    level: str
    content: str
    stream: str
    task_id: str
    host_id: int = 0
    host_name: str = ""


class Result(Struct, frozen=True, gc=False, omit_defaults=True):
    """How a task went; `log` repeats its output."""

    task_id: str
    status: str
    exit_code: int
    log: str = ""
    log_size: int = 0
    log_pointer: str = ""
    started_at: int = 0
    finished_at: int = 0
    error_msg: str = ""
    error_code: int = 0


class Outgoing(Struct, frozen=True, gc=False, omit_defaults=True):
    """A message of the agent."""

    type: str
    message_id: str
    ts: int
    task_id: str = ""
    logs: tuple[LogLine, ...] = ()
    result: Result | None = None
    payload: dict[str, Any] | None = None

    @property
    def status(self) -> str:
        """Of a result."""
        return self.result.status if self.result else ""

    @property
    def is_spurious(self) -> bool:
        """Whether it is the answer to an id that had finished."""
        return self.result is not None and self.result.error_msg == SKIPPED


encode = msgspec.json.Encoder().encode


def with_id(message: Outgoing, message_id: str) -> Outgoing:
    """The same message under another id."""
    return msgspec.structs.replace(message, message_id=message_id)
