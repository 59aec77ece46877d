"""Entries that were decided and whose writer died before they were in their feed: found, and written.

Owns the reading of `unfed`. Rules: only what this process has seen owed for `AGE_S` is paid - a living writer is still at it, and a Redis
that was away makes old entries of all that wait; in the order in which they came, an agent at a time. What cannot be read is told once, and left.
"""

import logging
from collections.abc import Callable

from cluster.feeds import Feeds, offline_entry, offline_status, result_entry
from cluster.redis_client import Store

AGE_S = 5.0
PAGE = 1024  # buckets of a hash that one HSCAN looks at
PAGES = 4  # in one go: what many nodes that died at once left behind is paid in one order, not page by page
logger = logging.getLogger(__name__)


class Debts:
    """What is owed, as far as this process has seen it."""

    def __init__(self, store: Store, feeds: Feeds) -> None:
        self._store = store
        self._feeds = feeds
        self._shards = [_Shard(store.keys.in_shard(shard, "unfed")) for shard in range(store.keys.shards)]

    async def pay(self, now_s: float) -> int:
        """Looks at some pages a shard; writes what has been owed for too long. How many; raises: StoreUnavailable."""
        due: dict[bytes, bytes] = {}
        for shard in self._shards:
            due.update(await self._due(shard, now_s))
        results, offline = ([raw for field, raw in due.items() if field[:1] == kind] for kind in (b"r", b"s"))
        try:
            await self._feeds.pay_results(sorted(results, key=_said_at))
        finally:  # one feed may be blocked, the other not
            await self._feeds.pay_offline(sorted(offline, key=_ended_at))
        return len(due)

    async def _due(self, shard: "_Shard", now_s: float) -> dict[bytes, bytes]:
        due: dict[bytes, bytes] = {}
        async with self._store.session() as client:
            for _ in range(PAGES):
                shard.cursor, page = await client.hscan(shard.key, cursor=shard.cursor, count=PAGE)
                due.update(shard.due(page, now_s))
                if not shard.cursor:
                    break
        return due


class _Shard:
    """How far the debts of a shard were looked at, and since when each has been seen."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.cursor = 0
        self.seen_s: dict[bytes, float] = {}
        self._found: set[bytes] = set()  # in this round
        self._strange: set[bytes] = set()

    def due(self, page: dict[bytes, bytes], now_s: float) -> dict[bytes, bytes]:
        """What of this page has been owed for too long. After a whole round, what was paid meanwhile is forgotten."""
        self._found.update(page)
        due = {field: raw for field, raw in page.items() if now_s - self.seen_s.setdefault(field, now_s) >= AGE_S}
        due = {field: raw for field, raw in due.items() if self._is_entry(field, raw)}
        if not self.cursor:
            self._strange &= self._found
            self.seen_s = {field: seen_s for field, seen_s in self.seen_s.items() if field in self._found}
            self._found = set()
        return due

    def _is_entry(self, field: bytes, raw: bytes) -> bool:
        """Whether it can be read. One that cannot must not keep the others from being paid."""
        try:
            _CHECKS[field[:1]](raw)
        except (KeyError, ValueError):
            if field not in self._strange:
                logger.error("what is owed as %a cannot be read: it stays", field[:100])  # noqa: TRY400 - no mistake of ours
                self._strange.add(field)
            return False
        return True


def _said_at(raw: bytes) -> tuple[str, int, int]:
    entry = result_entry(raw)
    return entry.agent_id, int(entry.received_at), entry.place


def _ended_at(raw: bytes) -> tuple[str, int]:
    entry = offline_entry(raw)
    return entry.agent_id, int(entry.epoch)


def _check_offline(raw: bytes) -> None:
    _ended_at(raw)
    offline_status(offline_entry(raw))


_CHECKS: dict[bytes, Callable[[bytes], object]] = {b"r": _said_at, b"s": _check_offline}  # by the field's first letter
