"""Tests that wait for many seconds: begun when the first test of the folder runs, and judged last.

    @begun_early
    async def test_a_quiet_agent_is_answered_after_20_s(clusters: Clusters) -> None: ...

Rule: such a test asks clusters of its own, or agents that nobody else looks at, since others run meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

import pytest

from tests.contract.clusters import Clusters

Body = Callable[[Clusters], Coroutine[Any, Any, None]]
Begun = Mapping[Body, asyncio.Task[None]]
Test = Callable[[Begun], Awaitable[None]]


def begun_early(body: Body) -> Test:
    """Make a test of a body that runs while other tests do."""

    async def test(begun: Begun) -> None:
        await begun[body]

    test.__name__ = test.__qualname__ = body.__name__
    test.__module__ = body.__module__
    test.body = body  # type: ignore[attr-defined]
    return test


def body_of(item: pytest.Item) -> Body | None:
    """What this test begins early, if it does."""
    return getattr(getattr(item, "function", None), "body", None)


def begin(items: Iterable[pytest.Item], clusters: Clusters) -> dict[Body, asyncio.Task[None]]:
    """Start what these tests judge later."""
    bodies = [body for body in map(body_of, items) if body is not None]
    return {body: asyncio.create_task(body(clusters), name=body.__name__) for body in bodies}


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Stop what nobody waited for; what it says is of no interest."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
