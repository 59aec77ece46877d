"""What the Redis of a stage says of itself: its memory, its calls, its entries. Our own questions are few and come outside of what is measured."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from cluster import settings
from cluster.redis_client import Store


class RedisFacts:
    """Questions to one Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def memory_bytes(self) -> int:
        """What its data takes."""
        return int((await self._info("memory"))["used_memory"])

    async def calls(self, command: str) -> int:
        """How often a command was called, also from within scripts."""
        found = (await self._info("commandstats")).get(f"cmdstat_{command}")
        return int(found["calls"]) if found else 0

    async def usage_bytes(self, pattern: str) -> int:
        """What the keys of this pattern take together."""
        async with self._store.session() as client:
            keys = [key async for key in client.scan_iter(match=pattern, count=1000)]
            return sum([int(await client.memory_usage(key, samples=0) or 0) for key in keys])

    async def members(self, pattern: str) -> int:
        """How many members the sets of this pattern have together."""
        async with self._store.session() as client:
            return sum([int(await client.scard(key)) async for key in client.scan_iter(match=pattern, _type="SET")])

    async def newest(self, stream: str) -> list[str]:
        """The newest entry of a stream: names and values in turn."""
        async with self._store.session() as client:
            found = await client.xrevrange(stream, count=1)
        return [part.decode() for pair in found[0][1].items() for part in pair] if found else []

    async def length(self, stream: str) -> int:
        """How many entries a stream has."""
        async with self._store.session() as client:
            return int(await client.xlen(stream))

    async def delete(self, key: str) -> None:
        """Drops a key of the benchmark's own."""
        async with self._store.session() as client:
            await client.unlink(key)

    async def _info(self, section: str) -> dict[str, Any]:
        async with self._store.session() as client:
            found: dict[str, Any] = await client.info(section)
        return found


@contextlib.asynccontextmanager
async def facts_of(url: str) -> AsyncIterator[RedisFacts]:
    """Asks the Redis at this address, for as long as the block runs."""
    store = Store(settings.Redis(enabled=True, url=url))
    try:
        yield RedisFacts(store)
    finally:
        await store.close()
