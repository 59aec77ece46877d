"""What consumer groups have had of a feed and what they have not. Reads, and changes nothing.

Rules:
- The id of an entry begins with the ms at which Redis wrote it: how old something is, ids alone tell.
- Redis before 7.0 does not tell how many entries a group has not been handed yet, and a newer one not always. Then they are counted,
  `PAGE` a step and up to a bound; beyond it all that is known is that there are more.
- Feeds are not ours alone: one that is missing is empty, one that is no stream is told as such.
"""

from typing import Any

from msgspec import Struct

from cluster.redis_client import Store

PAGE = 1000
COUNTED = 100_000  # entries that are counted at the most


class Group(Struct, frozen=True):
    """A consumer group. `lag`: entries it was not handed yet; `is_more`: so many were counted, and there are more.

    `behind_s`: how long the oldest of them has been there. `pending`: handed to its consumers, and not acked.
    """

    name: str
    consumers: int
    last_delivered: str
    pending: int
    lag: int
    is_more: bool
    behind_s: float


class Feed(Struct, frozen=True):
    """A feed as it is now. `added`: entries since it began, None where Redis does not tell (before 7.0)."""

    key: str
    length: int = 0
    first_id: str = ""
    last_id: str = ""
    added: int | None = None
    groups: tuple[Group, ...] = ()
    is_stream: bool = True


async def look(store: Store, key: str, most: int = COUNTED) -> Feed:
    """A feed and its groups; at most so many entries are counted a group. Raises: StoreUnavailable."""
    feed = Feed(key)
    async with store.session() as client:
        kind = await client.type(key)
        if kind != b"stream":
            return Feed(key, is_stream=kind == b"none")
        with store.missing_is_normal():  # it may go between two questions
            info, groups = await client.xinfo_stream(key), await client.xinfo_groups(key)
            first = info["first-entry"][0].decode() if info["first-entry"] else ""
            found = [await _group(store, key, one, info["length"], most) for one in groups]
            last = text(info["last-generated-id"])
            feed = Feed(key, info["length"], first, last, info.get("entries-added"), tuple(found))
    return feed


async def count(store: Store, key: str, first: str, last: str, most: int) -> tuple[int, str]:
    """(how many entries lie from `first` to `last`, at most so many; the id of the last that was counted).

    Raises: StoreUnavailable.
    """
    counted, end = 0, ""
    while counted < most:
        size = min(PAGE, most - counted)
        number, last_id = await store.run("span", [key], first, last, size)
        counted, end = counted + number, text(last_id) or end
        if number < size:
            break
        first = f"({end}"
    return counted, end


async def behind_s(store: Store, key: str, delivered: str) -> float | None:
    """For how long the oldest entry behind this one has been there; None when there is none. Raises: StoreUnavailable."""
    waiting, oldest = await count(store, key, f"({delivered}", "+", 1)
    return max(0.0, (store.now_ms() - milliseconds(oldest)) / 1000) if waiting else None


async def _group(store: Store, key: str, said: Any, length: int, most: int) -> Group:
    delivered = text(said["last-delivered-id"])
    waits_s = await behind_s(store, key, delivered)
    lag, is_more = said.get("lag"), False
    if waits_s is None:
        lag = 0
    elif lag is None:
        lag, _ = await count(store, key, f"({delivered}", "+", most + 1)
        lag, is_more = min(lag, most), lag > most
    lag = min(lag, length) if length else lag  # what was trimmed nobody waits for, though Redis may count it
    return Group(text(said["name"]), said["consumers"], delivered, said["pending"], lag, is_more, waits_s or 0.0)


def text(raw: Any) -> str:
    """A reply of Redis as text, whatever bytes somebody chose for a name."""
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)


def milliseconds(entry_id: str) -> int:
    """When an entry was written, by Redis's clock."""
    return int(entry_id.partition("-")[0] or 0)
