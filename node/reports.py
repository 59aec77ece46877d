"""What the node tells of its agents: status entries and task statistics, to their feeds.

Owns the rhythm of both; what an agent's end is called comes from whoever ended it. Rules: `online` when an agent came (after a
takeover only where the feed's last word was another), then every `status_stream.interval`; statistics every `push_interval` for agents
that changed, and when they go. `offline` goes the same way, behind the `online` of its session; it alone is owed: what Redis did not
take of the others is replaced by the next.
"""

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any

import msgspec

from cluster import messages
from cluster.errors import StoreUnavailable
from cluster.feeds import Feeds, StatusEntry, identity, number, offline_entry, offline_status
from cluster.messages import System
from node.session import Session, Tally

BATCH = 100  # in one call, and made in one go: sockets wait meanwhile

logger = logging.getLogger(__name__)
_encode = msgspec.json.encode


class Reports:
    """The status and statistics of one node's agents."""

    def __init__(self, feeds: Feeds, now_ms: Any, status_interval_s: float, stats_interval_s: float) -> None:
        self._feeds = feeds
        self._now_ms = now_ms
        self._status_interval_s = status_interval_s
        self._stats_interval_s = stats_interval_s
        self._statuses: deque[StatusEntry] = deque(maxlen=200_000)
        self._stats: deque[tuple[str, ...]] = deque(maxlen=200_000)
        self._queue: deque[tuple[float, Session]] = deque()
        self._changed: dict[Session, None] = {}
        self._due: deque[Session] = deque()  # whose statistics are to be told in this round
        self._writing = asyncio.Lock()  # a drain flushes while `run` still writes

    # ---- from the sessions

    def on_start(self, session: Session, *, is_takeover: bool) -> None:
        """An agent came, or changed its owner."""
        self._statuses.append(_online(session, self._now_ms(), "over" if is_takeover else "on"))
        if self._status_interval_s:
            self._queue.append((asyncio.get_running_loop().time() + self._status_interval_s, session))

    def on_heartbeat(self, session: Session) -> None:
        """With an interval of 0 every heartbeat is reported, as the Go server did."""
        if not self._status_interval_s:
            self._say_online(session)

    def on_end_of_task(self, session: Session) -> None:
        """The session's tally changed."""
        self._changed[session] = None

    def on_gone(self, session: Session) -> None:
        """The last statistics of a connection."""
        self._changed.pop(session, None)
        self._tell_stats(session)

    def on_release(self, owed: bytes) -> None:
        """An ownership ended, and its offline entry is owed."""
        self._statuses.append(offline_status(offline_entry(owed)))

    def _say_online(self, session: Session) -> None:
        self._statuses.append(_online(session, self._now_ms()))

    # ---- to the feeds

    async def run(self) -> None:
        """Writes what there is to say, for ever."""
        loop = asyncio.get_running_loop()
        next_stats = loop.time() + self._stats_interval_s
        while True:
            self._collect_statuses(loop.time())
            if loop.time() >= next_stats:
                next_stats = loop.time() + self._stats_interval_s
                self._begin_round()
            self._collect_stats()
            if not await self._write():
                await asyncio.sleep(0.1)

    def _collect_statuses(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now and len(self._statuses) < BATCH:
            _, session = self._queue.popleft()
            if session.link is not None:
                self._say_online(session)
                self._queue.append((now + self._status_interval_s, session))

    def _begin_round(self) -> None:
        if not self._due:  # else the last one still goes on
            self._due, self._changed = deque(self._changed), {}

    def _collect_stats(self) -> None:
        while self._due and len(self._stats) < BATCH:
            self._tell_stats(self._due.popleft())

    def _tell_stats(self, session: Session) -> None:
        if session.tally is not None and session.tally.changed:
            session.tally.changed = False
            self._stats.append(_stats_fields(session.agent_id, session.tally, self._now_ms()))

    async def _write(self) -> bool:
        """Whether there was something; what Redis does not take stays until it does, or until newer reports push it out."""
        async with self._writing:
            return await self._write_some()

    async def _write_some(self) -> bool:
        is_written = False
        for write in (self._write_statuses, self._write_stats):  # one feed may be blocked, the other not
            with contextlib.suppress(StoreUnavailable):
                is_written |= await write()
        return is_written

    async def _write_statuses(self) -> bool:
        statuses = [self._statuses[n] for n in range(min(BATCH, len(self._statuses)))]
        await self._feeds.append_status(statuses)
        for _ in statuses:
            self._statuses.popleft()
        await self._feeds.paid([entry for entry in statuses if entry.kind == "off"])
        return bool(statuses)

    async def _write_stats(self) -> bool:
        stats = [self._stats[n] for n in range(min(BATCH, len(self._stats)))]
        await self._feeds.append_stats(stats)
        for _ in stats:
            self._stats.popleft()
        return bool(stats)

    async def flush(self) -> None:
        """Writes what is left, as far as Redis takes it."""
        self._due.extend(self._changed)
        self._changed = {}
        self._collect_stats()
        while await self._write():
            self._collect_stats()


def _online(session: Session, now_ms: int, kind: str = "on") -> StatusEntry:
    heard_ms = str(now_ms - session.age_ms)
    host = _host_fields(session)
    fields = (
        *identity(session.agent_id, session.profile.name, str(session.profile.host_id)),
        *("status", "online", "last_heartbeat", heard_ms, "timestamp", str(now_ms), *host),
    )
    return StatusEntry(session.agent_id, str(session.epoch), kind, fields)


def _host_fields(session: Session) -> tuple[str, ...]:
    system, profile = _said(session.heartbeat), session.profile
    names = {name: getattr(system, name, None) or getattr(profile, name) for name in ("hostname", "os", "arch")}
    fields = [part for name, value in names.items() if value for part in (name, value)]
    if system is not None:
        fields += ["system", _encode(_system(system)).decode()]
    return tuple(fields)


def _said(heartbeat: bytes) -> System | None:
    """What an agent last told of its host; None before its first heartbeat, too."""
    try:
        return messages.heartbeat(heartbeat).system if heartbeat else None
    except messages.MALFORMED:
        return None


def _system(system: System) -> dict[str, Any]:
    """The shape in which the control plane reads a host's load."""
    load = [*(system.load_avg or ()), 0, 0, 0][:3]
    return {
        "cpu_usage": system.cpu_usage or 0,
        "memory": {
            "usage": system.memory_usage or 0,
            "total": system.memory_total or 0,
            "used": system.memory_used or 0,
        },
        "disk": system.disk_usage if system.disk_usage is not None else {},
        "load_avg": dict(zip(("1m", "5m", "15m"), load, strict=True)),
        "uptime": system.uptime or 0,
    }


def _stats_fields(agent_id: str, tally: Tally, now_ms: int) -> tuple[str, ...]:
    total = tally.success + tally.failed + tally.cancelled
    average = tally.duration_ms / tally.timed if tally.timed else 0
    counts = (("total", total), ("success", tally.success), ("failed", tally.failed), ("cancelled", tally.cancelled))
    return (
        *("agent_id", agent_id),
        *(part for name, value in counts for part in (name, str(value))),
        *("avg_duration_ms", number(average), "success_rate", number(tally.success * 100 / total if total else 0)),
        *("timestamp", str(now_ms)),
    )
