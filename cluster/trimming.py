"""How long feeds remember. Owns every XTRIM of a feed; others use these keys too, and a missing stream or group is normal.

- Results go when they were delivered to every group, are not pending for less than 15 min (the real consumer never acks), and `keep`
  newer ones exist; without groups `keep` alone decides. What is trimmed is taken off the groups' pending lists, which would grow for ever.
- Logs, status and statistics go by age.
- `max_len` caps all of them, oldest first: what that drops may be unread, and is logged.
- What an operator has cut is planned first, up to an entry: what comes meanwhile is never cut, and what groups had they keep having had.
"""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from cluster import groups
from cluster.errors import FeedBlocked
from cluster.redis_client import Client, Store
from cluster.settings import LogStream, ResultStream, Settings, StatusStream, TaskStatsStream

PENDING_MS = 15 * 60_000
PAGE = 1000
PAGES = 20

logger = logging.getLogger(__name__)
Id = tuple[int, int]
Feed = ResultStream | LogStream | StatusStream | TaskStatsStream


class Plan(Struct, frozen=True):
    """What a cut takes from a feed: its oldest entries, before `stays`, the id of the first that is left.

    `needed`: how many of them a group was not handed yet, or was handed within `PENDING_MS` and has not acked; none: left out.
    """

    key: str
    stays: str
    entries: int
    left: int
    needed: Mapping[str, int]


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

    async def planned(self, key: str, *, max_len: int | None = None, max_age_s: float | None = None) -> Plan:
        """What goes, for the feed to have so many entries, or none that is older. Raises: FeedBlocked, StoreUnavailable."""
        feed = await groups.look(self._store, key, 1)
        if not feed.is_stream:
            raise FeedBlocked(f"{key} is not a stream")
        length = feed.length
        if max_age_s is not None:
            stays = f"{max(0, self._store.now_ms() - int(max_age_s * 1000))}-0"
            entries, _ = await groups.count(self._store, key, "-", f"({stays}", length)
        else:
            over = max(0, length - (max_len or 0))
            entries, last = await groups.count(self._store, key, "-", "+", over)
            stays = _text(_after(_id(last))) if last else "0-0"
        return Plan(key, stays, entries, length - entries, await self._needed(key, stays, entries))

    async def _needed(self, key: str, stays: str, entries: int) -> dict[str, int]:
        needed: dict[str, int] = {}
        async with self._store.session() as client:
            for group in await self._groups(client, key):
                delivered = groups.text(group["last-delivered-id"])
                unread, _ = await groups.count(self._store, key, f"({delivered}", f"({stays}", entries)
                if wanted := unread + await self._fresh(client, key, group, stays):
                    needed[groups.text(group["name"])] = wanted
        return needed

    async def _fresh(self, client: Client, key: str, group: Any, stays: str) -> int:
        """How many of the entries before this one were handed out of late, and not acked."""
        fresh, first = 0, "-"
        while rows := await self._pending(client, key, group, first, f"({stays}"):
            fresh += sum(row["time_since_delivered"] < PENDING_MS for row in rows)
            first = f"({groups.text(rows[-1]['message_id'])}"
        return fresh

    async def cut(self, plan: Plan) -> int:
        """Does it, some at a time; how many entries went. Raises: StoreUnavailable."""
        dropped = 0
        async with self._store.session() as client:
            number = plan.entries
            while number:
                number, last = await groups.count(self._store, plan.key, "-", f"({plan.stays}", PAGE * PAGES)
                if number:
                    dropped += int(await client.xtrim(plan.key, minid=_text(_after(_id(last))), approximate=False))
            if dropped:
                await self._unburden(client, plan.key, _id(plan.stays))
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


def _after(entry_id: Id) -> Id:
    """The lowest id behind this one."""
    return entry_id[0], entry_id[1] + 1


def _text(entry_id: Id) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"
