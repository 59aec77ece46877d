"""Waiting for what must come: a check is asked again until nothing is wrong any more, or the deadline has passed.

A check returns what is still wrong (a text, a list, a count, anything true), and None, "", 0 or an empty list once all is well. What it
said last stands in the error. A check that raises ends the wait: that is a fault of the test, not something to wait for.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def eventually(check: Callable[[], object], timeout_s: float = 10.0, *, every_s: float = 0.02) -> None:
    """Ask `check`, a function or a coroutine function, until nothing is wrong. Raises: AssertionError with what still is."""
    deadline = time.monotonic() + timeout_s
    while wrong := await _asked(check, deadline + 1.0):
        if time.monotonic() >= deadline:
            raise AssertionError(_still(timeout_s, wrong))
        await asyncio.sleep(every_s)


def eventually_blocking(check: Callable[[], object], timeout_s: float = 10.0, *, every_s: float = 0.02) -> None:
    """The same without an event loop. Raises: AssertionError."""
    deadline = time.monotonic() + timeout_s
    while wrong := check():
        if time.monotonic() >= deadline:
            raise AssertionError(_still(timeout_s, wrong))
        time.sleep(every_s)


async def _asked(check: Callable[[], object], deadline: float) -> object:
    """One answer. An asynchronous check that hangs is what is wrong."""
    answer = check()
    if not inspect.isawaitable(answer):
        return answer
    return await _within(answer, deadline)


async def _within(answer: Awaitable[object], deadline: float) -> object:
    left_s = max(0.05, deadline - time.monotonic())
    waiting = asyncio.ensure_future(answer)
    try:
        done, _ = await asyncio.wait({waiting}, timeout=left_s)
        return waiting.result() if done else f"the check itself hangs for {left_s:.1f} s"
    finally:
        waiting.cancel()


def _still(timeout_s: float, wrong: object) -> str:
    return f"after {timeout_s:g} s still: {wrong}"
