"""The end of tasks that nobody wants any more.

One cancel may get lost: before Python 3.12 `asyncio.wait_for` drops it where what it waits for has just ended, and redis-py sends
under it. Who needs a task to end asks until it has. Knows nothing of what the tasks do.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

AGAIN_S = 0.1


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks until they have ended. What they raise is their own affair."""
    asked = set(tasks)
    left = {task for task in asked if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    for task in asked:
        if not task.cancelled():
            task.exception()  # looked at: nobody is to hear of it when the task is collected


async def alone(work: Coroutine[Any, Any, None]) -> None:
    """Does the whole work of a process, and ends what it left under way."""
    try:
        await work
    finally:
        await end(asyncio.all_tasks() - {asyncio.current_task()})
