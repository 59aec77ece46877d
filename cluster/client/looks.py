"""One look at a cluster that runs: its nodes, agents, tasks, feeds and Redis, as they are now. Prints nothing.

Redis is asked, which knows all of it even while no router answers; and of nodes what they alone know, on their admin ports, where these
can be reached. What cannot be learnt is None. Rule: what a look costs is bounded, however large the cluster is, but for its nodes.
"""

import asyncio
import contextlib
import http.client
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from cluster import groups
from cluster.client.options import FEEDS
from cluster.groups import Feed
from cluster.ledger import Books, Ledger
from cluster.nodes import Node, NodeDirectory, this_machine
from cluster.redis_client import Store
from cluster.registry import Registry
from cluster.settings import Settings

COUNTED = 1000  # of a feed's entries and of open tasks
ASK_S = 0.5
MOST_BYTES = 4 << 20

_MESSAGES = frozenset(("agent_server_messages_received_total", "agent_server_messages_sent_total"))
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


class NodeLook(Struct, frozen=True):
    """A node. `messages`: how many it had of agents and sent them, since it began; `boot` is another one after a restart."""

    id: str
    boot: str
    state: str
    agents: int
    cpu_percent: int
    machine: str
    memory_bytes: int | None
    messages: float | None


class Waiting(Struct, frozen=True):
    """Tasks that were accepted and not sent yet. `is_more`: not all open tasks were looked at."""

    tasks: int
    oldest_s: float
    is_more: bool


class RedisLook(Struct, frozen=True):
    """The Redis."""

    version: str
    memory_bytes: int
    max_memory_bytes: int
    ops_per_s: int
    round_trip_s: float


class Look(Struct, frozen=True):
    """All of it, at a moment of this machine's monotonic clock."""

    at_s: float
    nodes: list[NodeLook]
    agents_known: int
    agents_online: int
    books: Books
    waiting: Waiting
    feeds: dict[str, Feed]
    redis: RedisLook


async def take(store: Store, settings: Settings) -> Look:
    """A look. Raises: StoreUnavailable."""
    round_trip_s = await store.sync_clock()
    agent = settings.agent
    registry = Registry(store, agent.heartbeat_timeout_s, agent.forget_after_s, agent.max_takeovers)
    nodes = await asyncio.gather(*map(_node, await NodeDirectory(store).all()))
    known, online = await registry.count()
    sections = {name: getattr(settings, section) for name, section in FEEDS.items()}
    feeds = {name: await groups.look(store, feed.key, COUNTED) for name, feed in sections.items() if feed.enabled}
    books = await Ledger(store).books()
    waiting = await _waiting(store, books.open)
    return Look(time.monotonic(), list(nodes), known, online, books, waiting, feeds, await _redis(store, round_trip_s))


async def _redis(store: Store, round_trip_s: float) -> RedisLook:
    async with store.session() as client:
        info = await client.info()
    return RedisLook(
        str(info.get("redis_version", "?")), int(info.get("used_memory", 0)), int(info.get("maxmemory", 0)),
        int(info.get("instantaneous_ops_per_sec", 0)), round_trip_s,
    )  # fmt: skip


async def _waiting(store: Store, is_open: int) -> Waiting:
    """Of the open tasks that must end first."""
    share = max(1, COUNTED // store.keys.shards)
    async with store.session() as client:
        dues = client.pipeline(transaction=False)
        for shard in range(store.keys.shards):
            dues.zrange(store.keys.in_shard(shard, "due"), 0, share - 1)
        members = [member.decode() for page in await dues.execute() for member in page]
        records = client.pipeline(transaction=False)
        for member in members:
            agent_id, _, task_id = member.partition(":")
            records.hmget(store.keys.task(agent_id, task_id), "state", "created")
        rows = await records.execute()
    created = [int(created_ms or 0) for state, created_ms in rows if state == b"pending"]
    oldest_s = max(0.0, (store.now_ms() - min(created)) / 1000) if created else 0.0
    return Waiting(len(created), oldest_s, len(members) < is_open)


# ---- nodes


async def _node(node: Node) -> NodeLook:
    is_here = node.machine != "" and node.machine == this_machine()
    said = await asyncio.to_thread(_asked, _admin_of(node, is_here=is_here))
    return NodeLook(
        node.id, node.boot, node.state, node.load, node.cpu_percent, node.host,
        _resident_bytes(node.pid) if is_here else None, _messages(said) if said else None,
    )  # fmt: skip


def _admin_of(node: Node, *, is_here: bool) -> tuple[str, int] | None:
    """Where its metrics are; None where this machine does not reach them."""
    try:
        parts = urlsplit(node.admin)
        host, port = parts.hostname or "", parts.port or 0
        is_loopback = host.startswith("127.") or host in {"::1", "localhost"}
        if host in _ANYWHERE:
            host = "127.0.0.1" if is_here else node.host
    except ValueError:
        return None
    return (host, port) if host and port and (is_here or not is_loopback) else None


def _asked(place: tuple[str, int] | None) -> str:
    """What the metrics of a process are; "" when it does not say within a moment."""
    if place is None:
        return ""
    connection = http.client.HTTPConnection(*place, timeout=ASK_S)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        return response.read(MOST_BYTES).decode(errors="replace") if response.status == 200 else ""
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    finally:
        connection.close()


def _messages(said: str) -> float | None:
    with contextlib.suppress(ValueError):
        found = [
            sample.value
            for family in text_string_to_metric_families(said)
            for sample in family.samples
            if sample.name in _MESSAGES
        ]
        return sum(found) if found else None
    return None


def _resident_bytes(pid: int) -> int | None:
    try:
        pages: Any = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
