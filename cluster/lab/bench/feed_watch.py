"""Reads the results feed as a control plane does, and takes the time at which each of our tasks is seen to have ended."""

import asyncio
import time

from cluster import settings
from cluster.lab.bench import traffic
from cluster.lab.bench.tally import Tally
from cluster.redis_client import BLOCK_MS, Store

ANSWER_S = 30.0


class FeedWatch:
    """One reader, without a group."""

    def __init__(self) -> None:
        self._latencies_us: list[int] = []
        self._reading: asyncio.Task[None] | None = None

    async def begin(self, url: str, feed: str) -> Tally:
        """Reads from here on, until the process ends."""
        self._reading = asyncio.create_task(self._read(url, feed), name="feed")
        return Tally()

    async def ends(self, expected: int) -> Tally:
        """The ends that were seen since the last time, once so many are there; latencies run from when a task was due to be posted."""
        deadline = time.monotonic() + ANSWER_S
        while len(self._latencies_us) < expected and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        seen, self._latencies_us = self._latencies_us, []
        return Tally(done=len(seen), failed=max(0, expected - len(seen)), latencies_us=seen)

    async def _read(self, url: str, feed: str) -> None:
        store, last = Store(settings.Redis(enabled=True, url=url)), "0"
        while True:
            for entry in await store.read_streams({feed: last}, 1000, BLOCK_MS):
                self._latencies_us.append(traffic.late_us(entry.fields[b"task_id"]))
                last = entry.id
