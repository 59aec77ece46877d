"""Concurrent callers share calls: what arrives while one is under way becomes the next.

An idle process asks at once, a busy one batches by itself. Where callers are in a hurry, what waits behind a slow call goes beside it: the
connection keeps the order. Knows nothing of what it carries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from cluster.errors import StoreUnavailable

MAX_BYTES = 4 << 20  # of one call
MAX_CALLS = 16  # of one batcher, when they are slow: more than it has patience for within a second

Item = TypeVar("Item")
Reply = TypeVar("Reply")


class Batcher(Generic[Item, Reply]):
    """Turns single submits into calls that carry many, with one call in flight while calls are quick."""

    def __init__(
        self,
        name: str,
        call: Callable[[list[Item]], Awaitable[Sequence[Reply]]],
        limit: int = 256,
        weigh: Callable[[Item], int] = lambda _: 0,
        patience_s: float | None = None,
        follow: Callable[[list[Item], Sequence[Reply]], Awaitable[None]] | None = None,
    ) -> None:
        """`call` gets up to `limit` items, of `MAX_BYTES` by `weigh` or one, and answers one reply for each, in order.

        `patience_s`: how long an item waits behind a call before it goes in one beside it; None = as long as it takes.
        `follow`: what is done behind an answered call, before those that asked hear of it; the next call does not wait for it.
        """
        self._name = name
        self._call = call
        self._limit = limit
        self._weigh = weigh
        self._waiting: list[tuple[Item, asyncio.Future[Reply]]] = []
        self._patience_s = patience_s
        self._follow = follow
        self._following: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def submit(self, item: Item) -> Reply:
        """The reply to this item. Raises: what the call raised."""
        return await self.put(item)

    def put(self, item: Item) -> asyncio.Future[Reply]:
        """As `submit`, for who does not await."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._calls:
            self._begin()
        else:
            self._be_patient()
        return future

    def _begin(self) -> None:
        self._calls.add(asyncio.create_task(self._run(), name=f"batch {self._name}"))

    def _be_patient(self) -> None:
        if self._timer is None and self._patience_s is not None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._lose_patience)

    def _lose_patience(self) -> None:
        self._timer = None
        if self._waiting and len(self._calls) < MAX_CALLS:
            self._begin()
            self._be_patient()

    async def _run(self) -> None:
        try:
            while self._waiting:
                size = self._next_size()
                batch, self._waiting = self._waiting[:size], self._waiting[size:]
                wanted = [(item, future) for item, future in batch if not future.done()]
                if wanted:
                    await self._ask(wanted)
        finally:
            self._calls -= {asyncio.current_task()}  # at once: who submits next is to begin

    def _next_size(self) -> int:
        weight = 0
        for place, (item, _) in enumerate(self._waiting[: self._limit]):
            weight += self._weigh(item)
            if weight > MAX_BYTES and place:
                return place
        return self._limit

    async def _ask(self, batch: list[tuple[Item, asyncio.Future[Reply]]]) -> None:
        try:
            items = [item for item, _ in batch]
            replies = await self._call(items)
            answered = list(zip([future for _, future in batch], replies, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it was, it belongs to those who asked
            _fail([future for _, future in (*batch, *self._behind(error))], error)
            return
        if self._follow is None:
            _tell(answered)
        else:
            task = asyncio.create_task(
                self._tell_after(self._follow(items, replies), answered), name=f"behind {self._name}"
            )
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    async def _tell_after(self, follow: Awaitable[None], answered: list[tuple[asyncio.Future[Reply], Reply]]) -> None:
        try:
            await follow
        except Exception as error:  # noqa: BLE001 - as above
            _fail([future for future, _ in answered], error)
        else:
            _tell(answered)

    def _behind(self, error: Exception) -> list[tuple[Item, asyncio.Future[Reply]]]:
        """Who waits behind a call that Redis did not answer fails with it: callers are to hear within 3 s, and it took most of them."""
        if not isinstance(error, StoreUnavailable):
            return []
        behind, self._waiting = self._waiting, []
        return behind


def _tell(answered: list[tuple[asyncio.Future[Reply], Reply]]) -> None:
    for future, reply in answered:
        if not future.done():
            future.set_result(reply)


def _fail(futures: list[asyncio.Future[Reply]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
