"""Concurrent callers share calls, and each gets what is its own."""

import asyncio
from collections.abc import Sequence

import pytest

from cluster import batching
from cluster.batching import Batcher
from cluster.errors import StoreUnavailable
from tests.support.eventually import eventually


class Store:
    """Answers each item with its double, once it is let; `calls` are the batches it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def double(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return [2 * item for item in items]


def submitted(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def test_an_idle_one_asks_at_once_and_what_comes_meanwhile_is_the_next_call() -> None:
    store = Store()
    batcher = Batcher("test", store.double)
    first = submitted(batcher, 1)
    await eventually(lambda: not store.calls)
    rest = submitted(batcher, 2, 3, 4)
    await asyncio.sleep(0)
    assert store.calls == [[1]]
    store.open.set()
    assert await asyncio.gather(*first, *rest) == [2, 4, 6, 8]
    assert store.calls == [[1], [2, 3, 4]]


async def test_a_call_carries_no_more_than_the_limit_in_order() -> None:
    store = Store()
    store.open.set()
    replies = await asyncio.gather(*submitted(Batcher("test", store.double, limit=3), *range(8)))
    assert replies == [2 * n for n in range(8)]
    assert store.calls == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_an_error_reaches_all_who_shared_the_call_and_no_other() -> None:
    store = Store()
    store.error = StoreUnavailable("away")
    batcher = Batcher("test", store.double, limit=2)
    store.open.set()
    failed = await asyncio.gather(*submitted(batcher, 1, 2), return_exceptions=True)
    assert [type(error) for error in failed] == [StoreUnavailable, StoreUnavailable]
    store.error = None
    assert await batcher.submit(3) == 6


async def test_who_gave_up_before_the_call_is_not_asked_for() -> None:
    store = Store()
    batcher = Batcher("test", store.double)
    first = submitted(batcher, 1)
    await eventually(lambda: not store.calls)
    second, third = submitted(batcher, 2, 3)
    await asyncio.sleep(0)
    second.cancel()
    store.open.set()
    assert await asyncio.gather(*first, third) == [2, 6]
    assert store.calls == [[1], [3]]


async def test_who_gives_up_during_the_call_does_not_disturb_the_others() -> None:
    store = Store()
    batcher = Batcher("test", store.double)
    one, other = submitted(batcher, 1, 2)
    await eventually(lambda: not store.calls)
    one.cancel()
    store.open.set()
    assert await other == 4
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_it_starts_again_after_it_was_idle() -> None:
    store = Store()
    store.open.set()
    batcher = Batcher("test", store.double)
    assert [await batcher.submit(n) for n in range(3)] == [0, 2, 4]
    assert len(store.calls) == 3


async def test_what_waits_behind_a_slow_call_goes_beside_it_where_callers_are_in_a_hurry() -> None:
    store = Store()
    batcher = Batcher("test", store.double, patience_s=0.01)
    tasks = submitted(batcher, 1)
    await eventually(lambda: not store.calls)
    tasks += submitted(batcher, 2, 3)
    await eventually(lambda: store.calls != [[1], [2, 3]])
    store.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]


async def test_however_slow_they_are_calls_are_not_more_than_some() -> None:
    store = Store()
    batcher = Batcher("test", store.double, limit=1, patience_s=0.001)
    tasks = submitted(batcher, *range(20))
    await eventually(lambda: len(store.calls) < batching.MAX_CALLS)
    tasks += submitted(batcher, 20)
    await asyncio.sleep(0.01)
    assert len(store.calls) == batching.MAX_CALLS
    store.open.set()
    assert await asyncio.gather(*tasks) == [2 * n for n in range(21)]


async def test_who_submits_in_the_moment_of_an_answer_is_not_forgotten() -> None:
    store = Store()
    store.open.set()
    batcher = Batcher("test", store.double)

    async def chain() -> None:
        for n in range(50):
            assert await batcher.submit(n) == 2 * n

    async with asyncio.timeout(5):
        await asyncio.gather(*(chain() for _ in range(5)))


async def test_the_next_call_does_not_wait_for_what_follows_but_those_who_asked_do() -> None:
    store, followed, let = Store(), list[list[int]](), asyncio.Event()
    store.open.set()

    async def follow(items: list[int], replies: Sequence[int]) -> None:
        followed.append([*items, *replies])
        await let.wait()

    batcher = Batcher("test", store.double, follow=follow)
    first = submitted(batcher, 1)
    await eventually(lambda: not followed)
    second = submitted(batcher, 2)
    await eventually(lambda: len(followed) < 2)
    assert followed == [[1, 2], [2, 4]]
    assert not any(task.done() for task in (*first, *second))
    let.set()
    assert await asyncio.gather(*first, *second) == [2, 4]


async def test_what_goes_wrong_behind_a_call_reaches_those_who_asked() -> None:
    store = Store()
    store.open.set()

    async def follow(items: list[int], replies: Sequence[int]) -> None:
        raise StoreUnavailable("away")

    batcher = Batcher("test", store.double, follow=follow)
    with pytest.raises(StoreUnavailable):
        await batcher.submit(1)


async def test_a_call_that_nobody_waits_for_any_more_is_not_made() -> None:
    calls: list[list[int]] = []

    async def call(items: list[int]) -> list[int]:
        calls.append(items)
        return items

    batcher: Batcher[int, int] = Batcher("test", call)
    batcher.put(1).cancel()
    assert await batcher.put(2) == 2
    batcher.put(3).cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert calls == [[2]]
