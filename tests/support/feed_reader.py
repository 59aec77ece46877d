"""Reads the four feeds as control planes do, and takes down every entry.

A plain reader tails from `0` without a group: what it records is what the feeds held, also where they are trimmed later. A reader with a
group makes it with MKSTREAM from `0`, reads its own pending entries once after each reconnect (a reply that was lost is found only
there), and never acks, as Django does not. Both come back by themselves when Redis was away, empty or restarted.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from tests.support.eventually import eventually
from tests.support.recorder import Entry, GroupRead, Recorder, fingerprint

KEYS = {"results": "agent_results", "logs": "agent_logs", "status": "agent_status", "task_stats": "agent_task_stats"}
_LONG = frozenset({"content", "system"})
_COUNT = 1_000
_BLOCK_MS = 500

RawEntry = tuple[str, dict[str, str]]


class FeedReader:
    """Tails feeds into a recorder. `keys` says which feed has which key, where the configuration names others."""

    def __init__(
        self,
        redis_url: str,
        recorder: Recorder,
        *,
        group: str = "",
        keys: Mapping[str, str] = KEYS,
        retry_s: float = 0.2,
    ) -> None:
        self._recorder = recorder
        self._group = group
        self._feeds = {key: feed for feed, key in keys.items()}
        self._last = dict.fromkeys(self._feeds, "0-0")
        self._pending = dict.fromkeys(self._feeds, "0-0") if group else {}  # own pending entries, still to be read
        self._retry_s = retry_s
        self._redis = Redis.from_url(redis_url, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.get_running_loop().create_task(self._read(), name=f"feeds {self._group or 'plain'}")

    async def stop(self) -> None:
        """Read no more."""
        while self._task is not None and not self._task.done():
            self._task.cancel()  # again and again: redis-py sends under asyncio.wait_for, which swallows a cancel in Python 3.11
            await asyncio.wait({self._task}, timeout=0.1)
        await self._redis.aclose()

    async def caught_up(self, timeout_s: float = 30.0) -> None:
        """Wait until everything that is in the feeds now has been read. Raises: AssertionError with what is behind."""
        ends = await self._ends()
        await eventually(lambda: self._behind(ends), timeout_s)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _read(self) -> None:
        while True:
            try:
                if self._group:
                    await self._read_group()
                else:
                    await self._read_plain()
            except (RedisError, OSError):
                if self._group:
                    self._pending = dict.fromkeys(self._feeds, "0-0")
                await asyncio.sleep(self._retry_s)

    async def _read_plain(self) -> None:
        words: tuple[str | int, ...] = (
            "COUNT",
            _COUNT,
            "BLOCK",
            _BLOCK_MS,
            "STREAMS",
            *self._last,
            *self._last.values(),
        )
        for key, entries in _streams(await self._ask("XREAD", *words)):
            for entry_id, fields in entries:
                self._recorder.add(Entry(self._feeds[key], entry_id, fields))
                self._last[key] = entry_id

    async def _read_group(self) -> None:
        """First what is pending, from the beginning, then what is new."""
        await self._make_groups()
        while True:
            since = self._pending or dict.fromkeys(self._feeds, ">")
            words: tuple[str | int, ...] = (
                "GROUP",
                self._group,
                "reader",
                "COUNT",
                _COUNT,
                "BLOCK",
                _BLOCK_MS,
                "STREAMS",
                *since,
                *since.values(),
            )
            found = _streams(await self._ask("XREADGROUP", *words))
            for key, entries in found:
                for entry_id, _ in entries:
                    self._recorder.add(GroupRead(self._feeds[key], self._group, entry_id))
                    self._last[key] = max(self._last[key], entry_id, key=_number)
            if self._pending:
                self._pending = {key: entries[-1][0] for key, entries in found if entries}

    async def _make_groups(self) -> None:
        for key in self._feeds:
            try:
                await self._ask("XGROUP", "CREATE", key, self._group, "0", "MKSTREAM")
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    def _behind(self, ends: Mapping[str, str]) -> list[str]:
        late = (key for key, end in ends.items() if _number(self._last[key]) < _number(end))
        return [f"{self._feeds[key]} at {self._last[key]} of {ends[key]}" for key in late]

    async def _ends(self) -> dict[str, str]:
        ends = {}
        for key in self._feeds:
            found = _entries(await self._ask("XREVRANGE", key, "+", "-", "COUNT", 1))
            ends[key] = found[0][0] if found else "0-0"
        return ends

    async def _ask(self, *words: str | int) -> Any:
        return await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]


def _streams(reply: Any) -> list[tuple[str, list[RawEntry]]]:
    """Of an XREAD or XREADGROUP; None when nothing came in time."""
    pairs = reply.items() if isinstance(reply, dict) else reply or ()
    return [(_text(key), _entries(entries)) for key, entries in pairs]


def _entries(raw: Any) -> list[RawEntry]:
    return [(_text(entry_id), _fields(fields)) for entry_id, fields in raw]


def _fields(raw: Any) -> dict[str, str]:
    """An entry that was trimmed while it was pending has none."""
    pairs: Iterable[tuple[Any, Any]] = (
        raw.items() if isinstance(raw, dict) else zip(raw[::2], raw[1::2], strict=True) if raw else ()
    )
    named = ((_text(name), _text(value)) for name, value in pairs)
    return {name: fingerprint(value) if name in _LONG else value for name, value in named}


def _text(raw: Any) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)


def _number(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)
