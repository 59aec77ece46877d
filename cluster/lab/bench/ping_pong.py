"""A bare XADD -> XREAD between two processes, over the Redis client that nodes and routers use. One limit of how fast a task can arrive."""

import asyncio
import os
import time

from cluster import settings
from cluster.lab.bench.tally import Tally
from cluster.redis_client import BLOCK_MS, Store

_PING, _PONG = "bench:ping", "bench:pong"
_ENTRY = ("agent", "7f1c8a2e-0000-8000-8000-000000000000", "frame", "x" * 300)


class PingPong:
    """One of the two."""

    def __init__(self) -> None:
        self._echo: asyncio.Task[None] | None = None

    async def echo(self, url: str, cpu: int) -> Tally:
        """Answers from here on, until the process ends; stays on this CPU, as nodes and routers stay on theirs."""
        os.sched_setaffinity(0, {cpu})
        self._echo = asyncio.create_task(self._answer(_store(url)), name="pong")
        return Tally()

    async def serve(self, url: str, cpu: int, count: int, per_s: float = 0.0) -> Tally:
        """One after the other, at this rate (0 = at once); latencies are half of a round trip.

        That is from the XADD of one process to the reader of the other. Machines that sleep in between wake up slowly: what is asked now and
        then is to be held against what is asked as seldom.
        """
        os.sched_setaffinity(0, {cpu})
        store, tally, last = _store(url), Tally(), "0"
        async with store.session() as client:
            await client.delete(_PONG)
        gap_s, first_s = (1 / per_s if per_s else 0.0), time.monotonic()
        for n in range(count):
            if gap_s:
                await asyncio.sleep(max(0.0, first_s + n * gap_s - time.monotonic()))
            began_ns = time.monotonic_ns()
            await _add(store, _PING)
            last = await _next(store, _PONG, last)
            tally.latencies_us.append((time.monotonic_ns() - began_ns) // 2000)
            tally.done += 1
        await store.close()
        return tally

    async def _answer(self, store: Store) -> None:
        last = "0"
        while True:
            last = await _next(store, _PING, last)
            await _add(store, _PONG)


def _store(url: str) -> Store:
    return Store(settings.Redis(enabled=True, url=url))


async def _add(store: Store, key: str) -> None:
    await store.ask(("XADD", key, "MAXLEN", "~", 100, "*", *_ENTRY), may_repeat=False)


async def _next(store: Store, key: str, last: str) -> str:
    while True:
        if found := await store.read_streams({key: last}, 1, BLOCK_MS):
            return found[-1].id
