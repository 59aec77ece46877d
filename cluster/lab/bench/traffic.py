"""What simulated agents and control planes say: frames and bodies as the real ones send them, made for little.

Owns the texts, in which everything that changes has a fixed width. Knows no socket. Rules:

- A message id and a task id are never used twice in a run; those of two processes differ by their `tag`.
- Frames are masked with zeros, which is a mask like any other: the server has the same work, the client none.
- A task has 50 messages of output; an execution has 1,000 tasks.
"""

import time
from collections.abc import Callable

LINES_A_TASK = 50
TASKS_AN_EXECUTION = 1000
_FIRST_EXECUTION = 1_000_000_000
_FIRST_HOST = 10_000
_LINE = b"2026-01-01 12:00:00 step 4 of 9: unpacked 1204 files into /srv/app/releases, 0 errors, 3 warnings"

_RESULT = (
    b'{"type":"task_result","message_id":"%b","task_id":"%b","result":{"task_id":"%b","status":"success","exit_code":0,"log":"'
    + _LINE
    + b'","log_size":96,"log_pointer":"","started_at":1767268800,"finished_at":1767268803,"error_msg":"","error_code":0}}'
)
_LOG = b'{"type":"log","message_id":"%b","task_id":"%b","logs":[%b]}'
_LOG_LINE = (
    b'{"timestamp":1767268800,"level":"info","content":"'
    + _LINE
    + b'","stream":"stdout","task_id":"%b","host_id":%d,"host_name":"host-%d"}'
)
_HEARTBEAT = (
    b'{"type":"heartbeat","payload":{"timestamp":1767268800,"system":{"hostname":"host-1","os":"linux","arch":"amd64","cpu_usage":12.5,'
    b'"memory_usage":41.2,"memory_total":16777216000,"memory_used":6912212992,"disk_usage":{"/":55.1},"load_avg":[0.4,0.5,0.6],'
    b'"uptime":86400}}}'
)
_TASK = (
    b'{"id":"%b","name":"bench","type":"script","command":"#!/bin/sh\\nset -e\\nuptime\\ndf -h /srv\\n","script_type":"shell",'
    b'"work_dir":"/srv/app","run_as":"","timeout_sec":600,"execution_id":"%d","env":{"RELEASE":"2026.1","STAGE":"production"}}'
)

Maker = Callable[[int], bytes]


def masked(payload: bytes) -> bytes:
    """One text message in one frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    elif size < 1 << 16:
        head = b"\x81\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def host_of(agent: int) -> int:
    """The host id of a simulated agent."""
    return _FIRST_HOST + agent


class Agents:
    """What the agents of one process say; `agent` is an agent's number."""

    def __init__(self, tag: int) -> None:
        self._tag = tag
        self._said = 0
        self._tasks: dict[int, tuple[bytes, int]] = {}

    def maker(self, kind: str, lines: int = 1) -> Maker:
        """Makes the frames of one kind: result, log, heartbeat."""
        if kind == "heartbeat":
            frame = masked(_HEARTBEAT)
            return lambda _: frame
        return self.result if kind == "result" else lambda agent: self.log(agent, lines)

    def result(self, agent: int) -> bytes:
        """The end of a task that nobody knows yet."""
        self._said += 1
        return self.end_of(self._task_id(agent, self._said), self._said)

    def end_of(self, task_id: bytes, number: int = 0) -> bytes:
        """The end of this task."""
        return masked(_RESULT % (self._message_id(number or self._next()), task_id, task_id))

    def log(self, agent: int, lines: int) -> bytes:
        """Output of a task; the next task after LINES_A_TASK messages."""
        task_id, left = self._tasks.get(agent, (b"", 0))
        number = self._next()
        if not left:
            task_id, left = self._task_id(agent, number), LINES_A_TASK
        self._tasks[agent] = task_id, left - 1
        line = _LOG_LINE % (task_id, host_of(agent), host_of(agent))
        return masked(_LOG % (self._message_id(number), task_id, b",".join([line] * lines)))

    def _next(self) -> int:
        self._said += 1
        return self._said

    def _message_id(self, number: int) -> bytes:
        return b"%08x-0000-4000-8000-%012x" % (self._tag, number)

    def _task_id(self, agent: int, number: int) -> bytes:
        return b"%d_1_%05d_%08x%08x" % (
            _FIRST_EXECUTION + number // TASKS_AN_EXECUTION,
            host_of(agent),
            self._tag,
            number,
        )


class Tasks:
    """What a control plane posts. A task's id carries the time at which it was due, for whoever sees it arrive."""

    def __init__(self) -> None:
        self._made = 0

    def one(self, agent: int, due_ns: int) -> bytes:
        """A task."""
        self._made += 1
        execution = _FIRST_EXECUTION + self._made // TASKS_AN_EXECUTION
        task_id = b"%d_2_%05d_%016x-%08x" % (execution, host_of(agent), due_ns, self._made)
        return _TASK % (task_id, execution)

    def batch(self, agent: int, due_ns: int, count: int) -> bytes:
        """The body of a batch call."""
        return b"[%b]" % b",".join(self.one(agent, due_ns) for _ in range(count))


def late_us(task_id: bytes) -> int:
    """How long ago a task of `Tasks` was due."""
    due_ns = int(task_id.rpartition(b"_")[2].partition(b"-")[0], 16)
    return (time.monotonic_ns() - due_ns) // 1000
