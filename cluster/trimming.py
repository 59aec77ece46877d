"""How long feeds remember. Owns every XTRIM of a feed; others use these keys too, and a missing stream or group is normal.

- Results go when they were delivered to every group, are not pending for less than 15 min (the real consumer never acks), and `keep`
  newer ones exist; without groups `keep` alone decides. What is trimmed is taken off the groups' pending lists, which would grow for ever.
- Logs, status and statistics go by age.
- `max_len` caps all of them, oldest first: what that drops may be unread, and is logged.
"""

import contextlib
import logging
from typing import Any

from cluster.errors import FeedBlocked
from cluster.redis_client import Client, Store
from cluster.settings import LogStream, ResultStream, Settings, StatusStream, TaskStatsStream

PENDING_MS = 15 * 60_000
PAGE = 1000
PAGES = 20

logger = logging.getLogger(__name__)
Id = tuple[int, int]
Feed = ResultStream | LogStream | StatusStream | TaskStatsStream


class Trimmer:
    """Trims the four feeds."""

    def __init__(self, store: Store, config: Settings) -> None:
        self._store = store
        self._results: ResultStream = config.result_stream
        self.over_max_len = 0  # entries that went, read or not
        self._aging = (config.log_stream, config.status_stream, config.task_stats_stream)

    async def trim(self) -> int:
        """One pass over all feeds; how many entries went. Raises: StoreUnavailable."""
        dropped = 0
        for feed in (*self._aging, self._results):
            if feed.enabled:
                with contextlib.suppress(FeedBlocked), self._store.of_feed(feed.key):
                    dropped += await self._trim(feed)
        return dropped

    async def _trim(self, feed: Feed) -> int:
        async with self._store.session() as client:
            if isinstance(feed, ResultStream):
                dropped = await self._trim_results(client)
            else:
                oldest_ms = self._store.now_ms() - int(feed.max_age_s * 1000)
                dropped = await client.xtrim(feed.key, minid=f"{oldest_ms}-0", approximate=True)
            return dropped + await self._cap(client, feed.key, feed.max_len)

    async def _cap(self, client: Client, key: str, max_len: int) -> int:
        over = await client.xlen(key) - max_len
        if over <= 0:
            return 0
        dropped = int(await client.xtrim(key, maxlen=max_len, approximate=True))
        self.over_max_len += dropped
        if dropped:
            logger.error("%s: %d entries over max_len were dropped, read or not", key, dropped)
        return dropped

    async def _trim_results(self, client: Client) -> int:
        """A bounded number of pages a pass. Keys and groups may go at any moment: they are not ours alone."""
        key, dropped = self._results.key, 0
        for _ in range(PAGES):
            over = await client.xlen(key) - self._results.keep
            page = await client.xrange(key, count=min(over, PAGE) + 1) if over > 0 else []
            if not page:
                break
            ids = [_id(entry_id) for entry_id, _ in page]
            cut = await self._first_wanted(client, key, ids)
            if cut == ids[0]:
                break
            dropped += int(await client.xtrim(key, minid=_text(cut), approximate=False))
            await self._unburden(client, key, cut)
        return dropped

    async def _groups(self, client: Client, key: str) -> list[Any]:
        groups: list[Any] = []
        with self._store.missing_is_normal():
            groups = await client.xinfo_groups(key)
        return groups  # noqa: RET504 - not reached with a value when there is no such key

    async def _pending(self, client: Client, key: str, group: Any, first: str, last: str) -> list[Any]:
        rows: list[Any] = []
        with self._store.missing_is_normal():
            rows = await client.xpending_range(key, group["name"], first, last, PAGE + 1)
        return rows  # noqa: RET504 - as above

    async def _first_wanted(self, client: Client, key: str, ids: list[Id]) -> Id:
        """The first of these entries that some group still needs; the last one is kept in any case."""
        cut = ids[-1]
        for group in await self._groups(client, key):
            delivered = _id(group["last-delivered-id"])
            cut = min(cut, next((entry_id for entry_id in ids if entry_id > delivered), cut))
            pending = await self._pending(client, key, group, _text(ids[0]), _text(cut))
            fresh = (_id(row["message_id"]) for row in pending if row["time_since_delivered"] < PENDING_MS)
            cut = min(cut, next(fresh, cut))
        return cut

    async def _unburden(self, client: Client, key: str, cut: Id) -> None:
        for group in await self._groups(client, key):
            while rows := await self._pending(client, key, group, "-", f"({_text(cut)}"):
                await client.xack(key, group["name"], *[row["message_id"] for row in rows])


def _id(raw: Any) -> Id:
    text = raw.decode() if isinstance(raw, bytes) else str(raw)
    milliseconds, _, sequence = text.partition("-")
    return int(milliseconds), int(sequence or 0)


def _text(entry_id: Id) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"
