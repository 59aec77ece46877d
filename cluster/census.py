"""How many there are: agents, entries of the feeds and how far behind their readers are, what waits and for how long, Redis's memory.

Asked for its metrics by whoever watches over the cluster. Rules: a bounded number of calls that cost O(log n) at the most, whatever there is;
feeds and groups may go at any moment: they are not ours alone, and one that cannot be read hides nothing else.
"""

import contextlib
from typing import Any

from msgspec import Struct

from cluster import groups
from cluster.errors import FeedBlocked, StoreUnavailable
from cluster.keys import Keys
from cluster.redis_client import Client, Store
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.trimming import Feed

LOOKS = 100  # at agents that may have a task waiting, a shard
GROUPS = 20  # of a feed that are looked at


class FeedState(Struct, frozen=True):
    """A feed. `lag_s`: how long its first entry waits that some group did not read; `lag_entries`: how many wait, None = Redis does not tell."""

    entries: int
    groups: int
    lag_s: float | None = None
    lag_entries: int | None = None


class Counted(Struct, frozen=True):
    """What there was in one moment, more or less. `oldest_pending_s`: the age of the oldest task that was never handed out, 0 = none waits."""

    agents: int = 0
    online: int = 0
    agents_with_pending: int = 0
    oldest_pending_s: float = 0.0
    feeds: dict[str, FeedState] = {}
    used_bytes: int = 0
    limit_bytes: int = 0


class Census:
    """Counts in one Redis."""

    def __init__(self, store: Store, registry: Registry, config: Settings) -> None:
        self._store = store
        self._registry = registry
        self._keys: Keys = store.keys
        feeds: dict[str, Feed] = {
            "results": config.result_stream, "logs": config.log_stream,
            "status": config.status_stream, "task_stats": config.task_stats_stream,
        }  # fmt: skip
        self._feeds = {name: feed.key for name, feed in feeds.items() if feed.enabled}
        # Of each shard: when its oldest was accepted, and how many agents have one.
        self._pending: list[tuple[int, int]] = []

    async def take(self) -> Counted:
        """Counts. Raises: StoreUnavailable."""
        agents, online = await self._registry.count()
        async with self._store.session() as client:
            feeds = {name: state for name, key in self._feeds.items() if (state := await self._feed(client, key))}
            memory = await client.info("memory")
        with contextlib.suppress(StoreUnavailable):  # a full Redis refuses it, and is just then to be looked at
            self._pending = [await self._oldest(shard) for shard in range(self._keys.shards)]
        created_ms = min((ms for ms, _ in self._pending if ms), default=0)
        return Counted(
            agents,
            online,
            sum(count for _, count in self._pending),
            max(0.0, (self._store.now_ms() - created_ms) / 1000) if created_ms else 0.0,
            feeds,
            int(memory.get("used_memory", 0)),
            int(memory.get("maxmemory", 0)),
        )

    async def _oldest(self, shard: int) -> tuple[int, int]:
        keys = [self._keys.in_shard(shard, name) for name in ("pending", "agent:", "mail:", "task:")]
        created_ms, agents = await self._store.run("oldest", keys, LOOKS)
        return int(created_ms), int(agents)

    async def _feed(self, client: Client, key: str) -> FeedState | None:
        with contextlib.suppress(FeedBlocked), self._store.of_feed(key):
            entries = int(await client.xlen(key))
            found: list[Any] = []
            with self._store.missing_is_normal():
                found = await client.xinfo_groups(key)
            delivered = [groups.text(group["last-delivered-id"]) for group in found[:GROUPS]]
            lags_s = [await groups.behind_s(self._store, key, last) or 0.0 for last in delivered]
            lags = [group.get("lag") for group in found]
            known = max((int(lag) for lag in lags if lag is not None), default=None)
            return FeedState(entries, len(found), max(lags_s, default=None), known)
        return None
