"""The wire: what agents and control planes send, and the frames that agents are sent. The contract, to the field.

Owns the shapes and their bounds; knows neither sockets nor Redis. Rules: unknown fields are ignored, `null` is absent; numbers are
64-bit, as in the Go programs on the other side; what the control plane posts as a task is carried byte for byte.
"""

from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from cluster.errors import BadInput

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Number = int | float  # an integer stays one on its way to the control plane

MAX_TASKS = 10_000  # of one batch call
MAX_ID_CHARS = 200  # of a task
MAX_LINES = 10_000  # of one log message; the real agent sends one
SKIPPED = "task skipped as duplicated (already completed)"  # a Go agent's answer to an id that it has finished
ENDS = frozenset(("success", "failed", "cancelled"))


class LogLine(Struct, frozen=True, gc=False):
    """One line of a task's output. `timestamp` in seconds."""

    timestamp: Int64 | None = None
    level: str | None = None
    content: str | None = None
    stream: str | None = None
    task_id: str | None = None
    host_id: Int64 | str | None = None
    host_name: str | None = None


class Result(Struct, frozen=True, gc=False):
    """How a task went. Its `log`, up to 30 MiB, is skipped while decoding. Times in seconds."""

    task_id: str | None = None
    status: str | None = None
    exit_code: Int64 | None = None
    log_size: Int64 | None = None
    log_pointer: str | None = None
    started_at: Int64 | None = None
    finished_at: Int64 | None = None
    error_msg: str | None = None
    error_code: Int64 | None = None


class PeerFault(Struct, frozen=True, gc=False):
    """The `error` object of a message."""

    code: Int64 | None = None
    message: str | None = None


class AgentMessage(Struct, frozen=True, gc=False):
    """Whatever an agent sends: one JSON object, told apart by `type`."""

    type: str | None = None
    message_id: str | None = None
    ack_id: str | None = None
    task_id: str | None = None
    result: Result | None = None
    logs: Annotated[list[LogLine], Meta(max_length=MAX_LINES)] | None = None
    payload: Raw = Raw(b"")
    ts: Int64 | None = None
    request_id: str | None = None
    error: PeerFault | None = None


class System(Struct, frozen=True, gc=False):
    """What a heartbeat says of its host. Sizes in bytes, usages in percent, `uptime` in seconds."""

    hostname: str | None = None
    os: str | None = None
    arch: str | None = None
    cpu_usage: Number | None = None
    memory_usage: Number | None = None
    memory_total: Number | None = None
    memory_used: Number | None = None
    disk_usage: Any = None
    load_avg: list[Number] | None = None
    uptime: Number | None = None


class Heartbeat(Struct, frozen=True, gc=False):
    """The payload of a heartbeat. `timestamp` in seconds."""

    timestamp: Any = None
    system: System | None = None


class Registration(Struct, frozen=True):
    """The body of a registration."""

    name: str | None = None
    token: str | None = None
    labels: dict[str, str | None] | None = None
    system: dict[str, Any] | None = None
    host_id: Int64 | None = None


class FileTransfer(Struct, frozen=True):
    """A TaskSpec's `file_transfer`, as the Go agent decodes it."""

    remote_path: str | None = None
    download_url: str | None = None
    checksum: str | None = None
    auth_headers: dict[str, str | None] | None = None
    bandwidth_limit: Int64 | None = None
    size: Int64 | None = None


class TaskSpec(Struct, frozen=True):
    """A task as the Go agent decodes it. `timeout_sec` in seconds. What it cannot decode would cost the agent its connection."""

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
    timeout_sec: Int64 | None = None
    host_id: Int64 | None = None
    retry_count: Int64 | None = None
    is_retry: bool | None = None
    file_transfer: FileTransfer | None = None


class PlainTransfer(FileTransfer, frozen=True, forbid_unknown_fields=True):
    """One of known fields alone."""


class PlainTask(TaskSpec, frozen=True, forbid_unknown_fields=True):
    """A task with an id, of known fields alone: none of its names can be one of them in another case."""

    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
    file_transfer: PlainTransfer | None = None


class Control(Struct, frozen=True):
    """The body of a control call."""

    action: str | None = None
    reason: str | None = None


class NodeOrder(Struct, frozen=True):
    """The body of an order to a node: how many agents, how many a second."""

    agents: int | None = None
    per_second: float | None = None


class Upgrade(Struct, frozen=True):
    """The body of an upgrade call."""

    target_version: str | None = None
    download_url: str | None = None
    md5_hash: str | None = None
    sha256_hash: str | None = None


class CancelBatch(Struct, frozen=True):
    """The body of a batch cancel."""

    task_ids: list[str] | None = None


agent_message = msgspec.json.Decoder(AgentMessage).decode
heartbeat = msgspec.json.Decoder(Heartbeat).decode
_object = msgspec.json.Decoder(dict[str, Raw]).decode
_array = msgspec.json.Decoder(list[Raw]).decode
_task = msgspec.json.Decoder(TaskSpec).decode
_plain_task = msgspec.json.Decoder(PlainTask).decode
_plain_tasks = msgspec.json.Decoder(list[PlainTask]).decode
labels = msgspec.json.Decoder(dict[str, str]).decode
_quoted = msgspec.json.Encoder().encode

MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # all that decoding hostile bytes may raise

_TASK_FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(TaskSpec))
_TRANSFER_FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(FileTransfer))


def fault(error: Exception) -> str:
    """What is wrong with the input, naming the field and never its value."""
    if isinstance(error, msgspec.ValidationError):
        reason, _, path = str(error).partition(" - at ")
        return f"{path.strip('`').removeprefix('$.').removeprefix('$') or 'body'}: {reason.split(', got')[0]}"
    return "body is not valid JSON"


class NewTask(Struct, frozen=True, gc=False):
    """An accepted task: its id, its JSON as posted, and how long it may work (0 = not said)."""

    id: str
    json: str
    timeout_s: int


def new_task(body: bytes | Raw) -> NewTask:
    """Checks one task as the Go agent would decode it. Raises: BadInput, naming the field."""
    try:
        json = bytes(body).decode()
    except UnicodeDecodeError:
        raise BadInput("body is not UTF-8") from None
    try:
        spec: TaskSpec = _plain_task(json)
    except MALFORMED:  # whether that is a fault, and which, is found out the long way
        spec = _odd_task(json)
    return NewTask(checked_task_id(spec.id), json, _work_s(spec))


def _work_s(spec: TaskSpec) -> int:
    timeout_s = spec.timeout_sec
    return min(timeout_s, 10**9) if timeout_s and timeout_s > 0 else 0


def _odd_task(json: str) -> TaskSpec:
    try:
        spec = _task(json)
        _check_names(_object(json), _TASK_FIELDS)
        if spec.file_transfer is not None:
            _check_names(_object(_object(json)["file_transfer"]), _TRANSFER_FIELDS)
    except MALFORMED as error:
        raise BadInput(fault(error)) from None
    return spec


def _check_names(names: dict[str, Raw], known: frozenset[str]) -> None:
    """Go matches names whatever their case: `Timeout_Sec` would be decoded as `timeout_sec`, unchecked."""
    for name in names:
        if name not in known and (folded := name.casefold()) in known:
            raise BadInput(f"{folded}: written in another case")


def checked_task_id(task_id: str | None, field: str = "id") -> str:
    """This task id. Raises: BadInput unless it is 1 to 200 printable characters."""
    if not task_id:
        raise BadInput(f"{field}: required")
    if len(task_id) > MAX_ID_CHARS or not task_id.isprintable():
        raise BadInput(f"{field}: 1 to {MAX_ID_CHARS} printable characters")
    return task_id


def new_tasks(body: bytes) -> list[NewTask]:
    """Checks a batch: all of it or none. Raises: BadInput, naming the element and the field."""
    try:
        elements = _array(body)
    except MALFORMED as error:
        raise BadInput(fault(error)) from None
    if not elements:
        raise BadInput("body: at least one task")
    if len(elements) > MAX_TASKS:
        raise BadInput(f"body: at most {MAX_TASKS} tasks")
    return _plain_batch(body, elements) or _odd_batch(elements)


def _plain_batch(body: bytes, elements: list[Raw]) -> list[NewTask]:
    """The tasks of a batch in which nothing needs a second look; none, when something does."""
    try:
        body.decode()
        specs = _plain_tasks(body)
    except MALFORMED:
        return []
    ids = {spec.id for spec in specs}
    if len(ids) < len(specs) or not "".join(ids).isprintable():
        return []
    return [
        NewTask(spec.id, bytes(element).decode(), _work_s(spec)) for spec, element in zip(specs, elements, strict=True)
    ]


def _odd_batch(elements: list[Raw]) -> list[NewTask]:
    tasks: dict[str, NewTask] = {}
    for index, element in enumerate(elements):
        try:
            task = new_task(element)
        except BadInput as error:
            raise BadInput(f"[{index}].{error}") from None
        if tasks.setdefault(task.id, task).json != task.json:
            raise BadInput(f"[{index}].id: twice in the batch, with different contents")
    return list(tasks.values())


def decoded(kind: Any, body: bytes) -> Any:
    """A small body as this kind of Struct; an empty one is `{}`. Raises: BadInput, naming the field."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except MALFORMED as error:
        raise BadInput(fault(error)) from None


def execution_of(task_id: str) -> tuple[str, str]:
    """(execution id, host id) of a task id `{execution}_{step}_{host}_{random}`; "0" for what is no 63-bit integer."""
    parts = task_id.split("_", 3)
    return _positive(parts[0]), _positive(parts[2]) if len(parts) > 2 else "0"


def _positive(text: str) -> str:
    return _number(text) if len(text) <= 19 else "0"


@lru_cache(4096)  # an execution's tasks come together, and so do a host's
def _number(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        return "0"
    if len(text) < 19 and text[0] != "0":  # as most are
        return text
    return str(int(text)) if int(text) < 2**63 else "0"


# ---- frames to agents -------------------------------------------------------------------------------------------------------


def ack(message_id: str) -> bytes:
    """The acknowledgement of a log or result."""
    return b'{"type":"ack","ack_id":%b}' % _quoted(message_id)


def heartbeat_answer(ts_ms: int) -> bytes:
    """A data frame for an agent that has heard none for too long."""
    return b'{"type":"heartbeat","ts":%d}' % ts_ms


def task(task_id: str, json: bytes) -> bytes:
    """One task, its JSON as posted. Its message id is the task's id: an `ack` of it is a sign of life."""
    return b'{"type":"task","message_id":%b,"task":%b}' % (_quoted(task_id), json)


def tasks_batch(message_id: str, jsons: list[bytes]) -> bytes:
    """The tasks of one batch call."""
    return b'{"type":"tasks_batch","message_id":%b,"tasks":[%b]}' % (_quoted(message_id), b",".join(jsons))


def cancel_task(task_id: str) -> bytes:
    """The wish that a task ends."""
    return b'{"type":"cancel_task","task_id":%b}' % _quoted(task_id)


def cancel_tasks_batch(task_ids: list[str]) -> bytes:
    """The wish that tasks end."""
    return b'{"type":"cancel_tasks_batch","task_ids":%b}' % _quoted(task_ids)


def control(action: str, reason: str) -> bytes:
    """An order to the agent's process: `start`, `stop` or `restart`."""
    return b'{"type":"control","payload":%b}' % _quoted({"action": action, "reason": reason})


def upgrade(order: Upgrade) -> bytes:
    """An order to replace the agent's program."""
    payload = {name: value or "" for name, value in msgspec.structs.asdict(order).items()}
    return b'{"type":"upgrade","payload":%b}' % _quoted(payload)
