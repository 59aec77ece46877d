"""Tasks end when they are to, also those that lost the first cancel."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cluster.cancelling import alone, end
from cluster.service import SideTasks, unless_stopped
from tests.support.eventually import eventually


class Stubborn:
    """Loops that each lose a cancel or two, as one does that waits under `wait_for` at a bad moment."""

    def __init__(self) -> None:
        self.running = 0

    async def loop(self, loses: int) -> None:
        self.running += 1
        try:
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    loses -= 1
                    if loses < 0:
                        raise
        finally:
            self.running -= 1


async def _by_end(stubborn: Stubborn) -> None:
    tasks = [asyncio.create_task(stubborn.loop(loses), name=f"loses {loses}") for loses in range(3)]
    await eventually(lambda: stubborn.running < 3)
    await end(tasks)


async def _by_side_tasks(stubborn: Stubborn) -> None:
    side = SideTasks()
    side.start((f"loses {loses}", stubborn.loop(loses)) for loses in range(3))
    await eventually(lambda: stubborn.running < 3)
    await side.cancel()


async def _when_told_to_stop(stubborn: Stubborn) -> None:
    stop = asyncio.Event()
    starting = asyncio.create_task(unless_stopped(stop, stubborn.loop(2)), name="start")
    await eventually(lambda: not stubborn.running)
    stop.set()
    assert not await starting


@pytest.mark.parametrize("ended", [_by_end, _by_side_tasks, _when_told_to_stop])
async def test_a_task_that_lost_a_cancel_is_asked_again(ended: Callable[[Stubborn], Awaitable[None]]) -> None:
    stubborn = Stubborn()
    await asyncio.wait_for(ended(stubborn), 5)
    assert not stubborn.running


def test_a_process_ends_what_it_left_under_way() -> None:
    stubborn = Stubborn()
    left: list[asyncio.Task[None]] = []

    async def work() -> None:
        left.append(asyncio.create_task(stubborn.loop(2), name="left"))
        await eventually(lambda: not stubborn.running)
        raise KeyError("its own error")

    with pytest.raises(KeyError, match="its own error"):
        asyncio.run(alone(work()))
    assert not stubborn.running


async def test_what_a_task_raises_on_its_way_out_is_its_own_affair() -> None:
    async def broken() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise KeyError

    done = asyncio.create_task(asyncio.sleep(0), name="done")
    failing = asyncio.create_task(broken(), name="broken")
    await asyncio.sleep(0.01)
    await end([done, failing])
    assert isinstance(failing.exception(), KeyError)
