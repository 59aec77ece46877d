"""The feeds as a command line reads them: from the Redis that is configured, or from the embedded one of a data directory.

Owns how that Redis is found and reached; knows no command. Everything is read without a group: nobody else misses an entry.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from cluster import embedded, redis_client
from cluster.client.outcome import Failed
from cluster.errors import StartError, StoreAway, StoreUnavailable
from cluster.redis_client import BLOCK_MS, Store
from cluster.settings import Redis, Settings, without_url_credentials

READ_ENTRIES = 1000


@dataclass(frozen=True)
class Entry:
    """One entry of a feed."""

    feed: str
    id: str
    fields: Mapping[str, str]


def redis_of(settings: Settings) -> Redis:
    """How to reach the cluster's Redis. Raises: Failed when there is none."""
    redis = settings.redis
    if redis.enabled:
        return msgspec.structs.replace(redis, allow_eviction=True)  # the cluster has judged it
    try:
        url = embedded.running_url(Path(settings.cluster.data_dir))
        return Redis(enabled=True, url=url, prefix=redis.prefix)
    except StartError as error:
        raise Failed(f"{error}; --redis-url or --data-dir say where the cluster's is") from error


async def reached(settings: Settings) -> Redis:
    """The cluster's Redis, which answers and will do. Raises: Failed."""
    redis = redis_of(settings)
    try:
        await redis_client.check(redis)
    except StoreAway as error:
        raise Failed(f"{error} (--redis-url says where the cluster's Redis is)") from error
    except StartError as error:
        raise Failed(str(error)) from error
    return redis


def place_of(redis: Redis) -> str:
    """Where it is, for eyes."""
    return without_url_credentials(redis.url) if redis.url else redis.addr


async def shards_of(redis: Redis) -> int | None:
    """How many shards the cluster has that this Redis holds; None when it holds none. Raises: StoreUnavailable."""
    store = Store(redis)
    try:
        [shards] = await store.ask(("HGET", store.keys.meta, "shards"))
    finally:
        await store.close()
    return None if shards is None else int(shards)


@contextlib.asynccontextmanager
async def cluster_store(redis: Redis) -> AsyncIterator[Store]:
    """The cluster that this Redis holds, with its shards and its clock. Raises: Failed."""
    try:
        shards = await shards_of(redis)
        if shards is None:
            raise Failed("this Redis holds no cluster (redis.prefix says which)")
        store = Store(redis, shards)
        try:
            await store.sync_clock()
            yield store
        finally:
            await store.close()
    except StoreUnavailable as error:
        raise Failed(f"{error} (at {place_of(redis)})") from error


class Streams:
    """Reads feeds, from where each was read last."""

    def __init__(self, store: Store, where: str) -> None:
        self._store = store
        self._where = where
        self._after: dict[str, str] = {}

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Connected. Raises: Failed when this Redis cannot be read."""
        redis = await reached(settings)
        return cls(Store(redis), place_of(redis))

    async def close(self) -> None:
        """Lets go of Redis."""
        await self._store.close()

    async def last(self, feed: str, count: int) -> list[Entry]:
        """The newest entries of a feed, oldest first; `read` goes on behind them. Raises: Failed."""
        try:
            async with self._store.session() as client:
                newest = await client.xrevrange(feed, count=max(count, 1))
        except StoreUnavailable as error:
            raise self._gone(error) from error
        self._after[feed] = newest[0][0].decode() if newest else "0"
        return [_entry(feed, one) for one in reversed(newest)] if count else []

    async def read(self, block_ms: int = BLOCK_MS) -> list[Entry]:
        """What came since, of all feeds that `last` was asked for; waits a moment for it. Raises: Failed."""
        try:
            found = await self._store.read_streams(self._after, READ_ENTRIES, block_ms)
        except StoreUnavailable as error:
            raise self._gone(error) from error
        entries = [_entry(feed, (entry_id.encode(), fields)) for feed, entry_id, fields in found]
        self._after.update((entry.feed, entry.id) for entry in entries)
        return entries

    def _gone(self, error: StoreUnavailable) -> Failed:
        return Failed(f"{error} (at {self._where})")


def _entry(feed: str, raw: tuple[bytes, Mapping[bytes, bytes]]) -> Entry:
    entry_id, fields = raw
    return Entry(feed, entry_id.decode(), {_text(name): _text(value) for name, value in (fields or {}).items()})


def _text(raw: Any) -> str:
    return bytes(raw).decode(errors="replace")
