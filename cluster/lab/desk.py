"""The tasks of this agent: which run, which wait, which have ended.

Owns the order and the number of what runs at once; knows no sockets. Rules, by what a frame says of a task id:

| it says | the id is | we |
| --- | --- | --- |
| run | new | run it, or let it wait its turn |
| run | running or waiting | go on; it was sent twice |
| run | finished | send its result again, and run nothing |
| cancel | running or waiting | end it as `cancelled` |
| cancel | finished | send its result again |
| cancel | never heard of | say `cancelled`, and remember that: its task is never sent to us again |
"""

import asyncio
import logging
import platform
from collections.abc import Awaitable, Callable

from cluster.lab import runner, wire
from cluster.lab.finished import FinishedTasks
from cluster.lab.outbox import Outbox
from cluster.lab.output import Keep, OutputLine
from cluster.lab.runner import AGENT_STOPPED, CANCELLED, Outcome, Stop
from cluster.messages import TaskSpec

_LEVELS = {"stdout": "info", "stderr": "error"}

Run = Callable[[TaskSpec, Stop, Keep], Awaitable[wire.End]]

logger = logging.getLogger("agent")


class Job:
    """A task that has not ended, and how its run is told to end."""

    def __init__(self, task: TaskSpec) -> None:
        self.task = task
        self.stop: Stop = asyncio.get_running_loop().create_future()
        self.work: asyncio.Task[None] | None = None

    def end_as(self, outcome: Outcome) -> None:
        """Tells the run to end in this way, unless it was told before."""
        if not self.stop.done():
            self.stop.set_result(outcome)


class Desk:
    """All tasks that came and have not ended, and the memory of those that have. `run` carries one out."""

    def __init__(self, outbox: Outbox, finished: FinishedTasks, run: Run, *, max_tasks: int, host_id: int = 0) -> None:
        self._outbox = outbox
        self._finished = finished
        self._run = run
        self._max_tasks = max_tasks
        self._host_id = host_id
        self._host_name = platform.node()
        self._waiting: dict[str, Job] = {}  # in the order in which they came
        self._running: dict[str, Job] = {}
        self._is_stopped = False

    # ---- what the server says

    def take(self, task: TaskSpec) -> None:
        """A task came."""
        task_id = task.id or ""
        if not task_id:
            logger.warning("a task without an id came, and was dropped")
        elif task_id not in self._waiting and task_id not in self._running and not self._answered_again(task_id):
            self._waiting[task_id] = Job(task)
            self._go_on()

    def cancel(self, task_id: str) -> None:
        """A task is to end."""
        if task_id in self._running:
            self._running[task_id].end_as(CANCELLED)
        elif self._waiting.pop(task_id, None) is not None or not self._answered_again(task_id):
            self._tell(runner.end_of(task_id, CANCELLED))

    async def stop(self) -> None:
        """Ends everything, and takes nothing more: the agent stops."""
        self._is_stopped = True
        self._go_on()
        for job in self._running.values():
            job.end_as(AGENT_STOPPED)
        await asyncio.gather(*(job.work for job in self._running.values() if job.work))

    # ---- how they go

    def _go_on(self) -> None:
        """Starts what may run now. Once stopped, what waits ends instead."""
        while self._waiting and (self._is_stopped or len(self._running) < self._max_tasks):
            task_id = next(iter(self._waiting))
            job = self._waiting.pop(task_id)
            if self._is_stopped:
                self._tell(runner.end_of(task_id, AGENT_STOPPED))
            else:
                self._running[task_id] = job
                job.work = asyncio.create_task(self._work(task_id, job), name=f"task {task_id}")

    async def _work(self, task_id: str, job: Job) -> None:
        logger.info("task %s begins", task_id)
        try:
            end = await self._run(job.task, job.stop, self._keeper(task_id, job.task))
        except Exception as error:
            logger.exception("task %s: a mistake of the agent", task_id)
            end = runner.end_of(task_id, Outcome("failed", error_msg=f"mistake of the agent: {type(error).__name__}"))
        del self._running[task_id]
        self._tell(end)
        self._go_on()

    def _keeper(self, task_id: str, task: TaskSpec) -> Keep:
        """Where its output goes."""
        host_id = self._host_id or task.host_id or 0

        async def keep(lines: list[OutputLine]) -> bool:
            message_id = wire.new_id()
            sent = [
                wire.Line(line.at_s, _LEVELS[line.stream], line.content, line.stream, task_id, host_id, self._host_name)
                for line in lines
            ]
            return await self._outbox.add_log(message_id, wire.log(message_id, task_id, sent))

        return keep

    # ---- how they end

    def _tell(self, end: wire.End) -> None:
        """The end of a task: remembered first, so that it never runs again, then sent."""
        message_id = wire.new_id()
        frame = wire.result(message_id, end)
        self._finished.remember(end.task_id, message_id, frame)
        self._outbox.add_result(message_id, frame)
        why = f", {end.error_msg}" if end.error_msg not in {"", end.status} else ""
        logger.info("task %s: %s%s", end.task_id, end.status, why)

    def _answered_again(self, task_id: str) -> bool:
        """Whether this task has ended; its result then goes out once more, under the id it had."""
        known = self._finished.find(task_id)
        if known is not None:
            self._outbox.add_result(known.message_id, known.frame)
        return known is not None
