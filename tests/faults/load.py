"""What a control plane does all day: tasks for random hosts, one by one and in batches, and some of them cancelled.

Owns the pace and the mixture; how a call is repeated is the control plane's. Calls do not wait for each other, so that a cluster that
stalls is not spared.
"""

import asyncio
import random
from typing import TypedDict

import msgspec

from tests.support.control_plane import ControlPlane, new_task
from tests.support.go_wire import Task
from tests.support.http_client import Response
from tests.support.task_runner import Behaviour, Execution

_BATCH = 4
_EXECUTIONS = 50


class _How(TypedDict):
    give_up_s: float
    everywhere: bool


class Mixture(msgspec.Struct, frozen=True):
    """Which share of the calls brings a batch, and which share of the tasks is cancelled within a second."""

    batches: float = 0.1
    cancels: float = 0.05


class Load:
    """Posts `count` tasks to hosts 1 to `hosts`, `per_s` of them a second; `everywhere`: to every router at once."""

    def __init__(
        self,
        control_plane: ControlPlane,
        *,
        hosts: int,
        count: int,
        per_s: float,
        chance: random.Random,
        mixture: Mixture | None = None,
        everywhere: bool = False,
        give_up_s: float = 120.0,
        first_execution: int = 1,
    ) -> None:
        self._control_plane = control_plane
        self._hosts = hosts
        self._count = count
        self._per_s = per_s
        self._chance = chance
        self._mixture = mixture or Mixture()
        self._everywhere = everywhere
        self._give_up_s = give_up_s
        self._first_execution = first_execution
        self.posted = 0
        self.cancelled = 0

    async def run(self) -> None:
        """Post all of it, and return when each call was answered. Raises: NotAcceptedError, AssertionError, in a group."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with asyncio.TaskGroup() as calls:
            while self.posted < self._count:
                calls.create_task(self._call(), name="a call of the control plane")
                await asyncio.sleep(max(0.0, began_s + self.posted / self._per_s - loop.time()))

    async def _call(self) -> None:
        host = self._chance.randint(1, self._hosts)
        is_batch = self._chance.random() < self._mixture.batches
        tasks = [new_task(host, execution_id=self._execution()) for _ in range(_BATCH if is_batch else 1)]
        self.posted += len(tasks)
        cancelled = [str(task["id"]) for task in tasks if self._chance.random() < self._mixture.cancels]
        pause_s = self._chance.random()
        how: _How = {"give_up_s": self._give_up_s, "everywhere": self._everywhere}
        if is_batch:
            _require(await self._control_plane.post_batch(host, tasks, **how))
        else:
            _require(await self._control_plane.post_task(host, tasks[0], **how))
        if cancelled:
            await asyncio.sleep(pause_s)
        for task_id in cancelled:
            self.cancelled += 1
            _require(await self._control_plane.cancel(host, task_id, give_up_s=self._give_up_s))

    def _execution(self) -> int:
        return self._first_execution + self._chance.randrange(_EXECUTIONS)


def _require(answer: Response) -> None:
    assert answer.status == 200, f"{answer.status} {answer.body.decode(errors='replace')}"


def varied(chance: random.Random) -> Behaviour:
    """Tasks of up to four lines and a third of a second, of which one in twenty fails."""

    def behave(task: Task) -> Execution:
        lines = tuple(f"{task.id} line {number}" for number in range(chance.randint(0, 4)))
        return Execution(lines, chance.random() / 3, exit_code=int(chance.random() < 0.05))

    return behave
