"""How a Go agent treats the tasks it is sent: five run at once, the rest wait in its memory.

Owns what runs, waits and has finished; sends nothing itself. Rules (protocol.md, section 1.3): an id that runs or waits, sent again, is
ignored silently; one that finished within five minutes (the last thousand) is answered with "skipped as duplicated"; a cancel ends what
runs or waits, and is ignored otherwise. What a task does is decided by a behaviour: lines, how long, and with which exit code.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec

from tests.support.go_wire import Task


class Execution(msgspec.Struct, frozen=True):
    """What a task will do: its lines come evenly over its duration, then it exits. Without a status: success when it exits with 0."""

    lines: tuple[str, ...] = ()
    duration_s: float = 0.0
    exit_code: int = 0
    error_msg: str = ""
    status: str = ""

    @property
    def outcome(self) -> str:
        """The status of the result."""
        return self.status or ("failed" if self.exit_code else "success")


Behaviour = Callable[[Task], Execution]
Later = Callable[[float, Callable[[], None]], object]


def quick(lines: int = 2, duration_s: float = 0.01) -> Behaviour:
    """Every task writes this many lines and succeeds after this time."""
    return lambda task: Execution(tuple(f"{task.id} line {number}" for number in range(1, lines + 1)), duration_s)


class Reports(Protocol):
    """Who is told how tasks go."""

    def on_started(self, task: Task) -> None:
        """A run began."""

    def on_line(self, task: Task, line: str) -> None:
        """It wrote a line."""

    def on_ended(self, task: Task, execution: Execution, lines: list[str], started_at_s: int) -> None:
        """It ended with these lines written; `started_at_s` is 0 when it never ran."""

    def on_skipped(self, task: Task) -> None:
        """It had finished before and was sent again."""


class Limits(msgspec.Struct, frozen=True):
    """How many run at once, and how long and how many of the finished are remembered."""

    at_once: int = 5
    remembered: int = 1_000
    remembered_s: float = 300.0


class _Run:
    """A task from its arrival to its end."""

    __slots__ = ("execution", "is_over", "lines", "started_at_s", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.execution = Execution()
        self.lines: list[str] = []
        self.started_at_s = 0
        self.is_over = False


class TaskRunner:
    """The tasks of one agent process. `later(delay_s, callback)` is its timer, `now_s` its steady clock, `wall_s` the time of day."""

    def __init__(
        self,
        behaviour: Behaviour,
        reports: Reports,
        *,
        later: Later,
        now_s: Callable[[], float],
        wall_s: Callable[[], int],
        limits: Limits,
    ) -> None:
        self._behaviour = behaviour
        self._reports = reports
        self._later, self._now_s, self._wall_s = later, now_s, wall_s
        self._limits = limits
        self._running: dict[str, _Run] = {}
        self._waiting: OrderedDict[str, _Run] = OrderedDict()
        self._finished: OrderedDict[str, float] = OrderedDict()

    @property
    def running(self) -> list[str]:
        """Ids of what runs."""
        return list(self._running)

    @property
    def waiting(self) -> list[str]:
        """Ids of what waits, in order."""
        return list(self._waiting)

    def take(self, task: Task) -> None:
        """The agent was sent a task."""
        task_id = task.id or ""
        if task_id in self._running or task_id in self._waiting:
            return
        if self._has_finished(task_id):
            self._reports.on_skipped(task)
            return
        self._waiting[task_id] = _Run(task)
        self._start_next()

    def cancel(self, task_id: str) -> None:
        """The agent was told to cancel a task."""
        run = self._running.get(task_id) or self._waiting.get(task_id)
        if run is not None:
            self._end(run, Execution(exit_code=-1, status="cancelled", error_msg="task cancelled"))

    def _start_next(self) -> None:
        while self._waiting and len(self._running) < self._limits.at_once:
            task_id, run = self._waiting.popitem(last=False)
            run.execution, run.started_at_s = self._behaviour(run.task), self._wall_s()
            self._running[task_id] = run
            self._reports.on_started(run.task)
            self._step(run)

    def _step(self, run: _Run) -> None:
        """Wait for the next line, or after the last one for the end."""
        pause_s = run.execution.duration_s / (len(run.execution.lines) + 1)
        self._later(pause_s, lambda: self._advance(run))

    def _advance(self, run: _Run) -> None:
        if run.is_over:
            return
        if len(run.lines) == len(run.execution.lines):
            self._end(run, run.execution)
            return
        line = run.execution.lines[len(run.lines)]
        run.lines.append(line)
        self._reports.on_line(run.task, line)
        self._step(run)

    def _end(self, run: _Run, execution: Execution) -> None:
        task_id = run.task.id or ""
        run.is_over = True
        if self._running.pop(task_id, None) is None:
            del self._waiting[task_id]
        self._remember(task_id)
        self._reports.on_ended(run.task, execution, run.lines, run.started_at_s)
        self._start_next()

    def _remember(self, task_id: str) -> None:
        self._finished[task_id] = self._now_s()
        self._finished.move_to_end(task_id)
        if len(self._finished) > self._limits.remembered:
            self._finished.popitem(last=False)

    def _has_finished(self, task_id: str) -> bool:
        finished_s = self._finished.get(task_id)
        return finished_s is not None and self._now_s() - finished_s <= self._limits.remembered_s
