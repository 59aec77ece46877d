"""Two looks at a cluster, one after the other, as figures: what is there, and how much happens a second. Text of it for people.

Pure: knows neither Redis nor a terminal. A figure that nobody knows is None, and `-` for people.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.client.looks import Look, NodeLook
from cluster.client.tables import pairs, table
from cluster.groups import Feed, Group

NONE = "-"
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))


def figures(before: Look, now: Look) -> dict[str, Any]:
    """Everything, as JSON has it."""
    passed_s = max(now.at_s - before.at_s, 0.001)
    former = {(node.id, node.boot): node for node in before.nodes}
    return {
        "agents": {"known": now.agents_known, "online": now.agents_online},
        "tasks": {
            "accepted_per_s": _rate(before.books.accepted, now.books.accepted, passed_s),
            "ended_per_s": _rate(before.books.ended, now.books.ended, passed_s),
            "open": now.books.open,
            "pending": now.waiting.tasks,
            "oldest_pending_s": round(now.waiting.oldest_s, 3),
            "pending_is_more": now.waiting.is_more,
        },
        "nodes": [_node(former.get((node.id, node.boot)), node, passed_s) for node in now.nodes],
        "feeds": [
            {"feed": name, **feed_figures(feed), "per_s": _feed_rate(before.feeds.get(name), feed, passed_s)}
            for name, feed in now.feeds.items()
        ],
        "redis": {
            "version": now.redis.version,
            "memory_bytes": now.redis.memory_bytes,
            "max_memory_bytes": now.redis.max_memory_bytes or None,
            "ops_per_s": now.redis.ops_per_s,
            "round_trip_ms": round(now.redis.round_trip_s * 1000, 3),
        },
    }


def feed_figures(feed: Feed) -> dict[str, Any]:
    """A feed and its groups, as JSON has them."""
    return {
        "stream": feed.key,
        "is_stream": feed.is_stream,
        "entries": feed.length,
        "last_id": feed.last_id or None,
        "groups": [_group(group) for group in feed.groups],
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "group": group.name,
        "consumers": group.consumers,
        "last_delivered": group.last_delivered,
        "lag": group.lag,
        "lag_is_more": group.is_more,
        "behind_s": round(group.behind_s, 3),
        "pending": group.pending,
    }


def _node(before: NodeLook | None, node: NodeLook, passed_s: float) -> dict[str, Any]:
    return {
        "id": node.id,
        "state": node.state,
        "agents": node.agents,
        "messages_per_s": _rate(before.messages if before else None, node.messages, passed_s),
        "cpu_percent": node.cpu_percent,
        "memory_bytes": node.memory_bytes,
        "machine": node.machine,
    }


def _rate(before: float | None, now: float | None, passed_s: float) -> float | None:
    """None where it is not known, or what counts began anew."""
    if before is None or now is None or now < before:
        return None
    return round((now - before) / passed_s, 1)


def _feed_rate(before: Feed | None, now: Feed, passed_s: float) -> float | None:
    """By what Redis counted; before 7.0 by how the feed grew, which tells nothing once its beginning was trimmed."""
    if before is None:
        return None
    if before.added is None or now.added is None:
        is_whole = before.first_id in {"", now.first_id}
        return _rate(before.length, now.length, passed_s) if is_whole else None
    return _rate(before.added, now.added, passed_s)


# ---- for people


def lines(said: Mapping[str, Any]) -> list[str]:
    """The figures, as people read them."""
    head = pairs({"agents": _agents(said["agents"]), "tasks": _tasks(said["tasks"]), "redis": _redis(said["redis"])})
    nodes = table(("NODE", "STATE", "AGENTS", "MSG/S", "CPU", "MEMORY", "MACHINE"), map(_node_row, said["nodes"]))
    feeds = table(
        ("FEED", "ENTRIES", "PER S", "GROUP", "LAG", "BEHIND", "PENDING"),
        [row for feed in said["feeds"] for row in _feed_rows(feed)],
    )
    return "\n".join((head, nodes if said["nodes"] else "no nodes\n", feeds)).splitlines()


def _agents(said: Mapping[str, Any]) -> str:
    return f"{said['online']} online of {said['known']}"


def _tasks(said: Mapping[str, Any]) -> str:
    more = "+" if said["pending_is_more"] else ""
    oldest = f", the oldest for {duration(said['oldest_pending_s'])}{more}" if said["pending"] else ""
    rates = f"{number(said['accepted_per_s'])}/s accepted, {number(said['ended_per_s'])}/s ended"
    return f"{rates}, {said['open']} open, {said['pending']}{more} pending{oldest}"


def _redis(said: Mapping[str, Any]) -> str:
    of = f" of {size(said['max_memory_bytes'])}" if said["max_memory_bytes"] else ""
    return f"{said['version']}, {size(said['memory_bytes'])}{of}, {said['ops_per_s']} ops/s, {said['round_trip_ms']:.1f} ms"


def _node_row(said: Mapping[str, Any]) -> tuple[object, ...]:
    rate, memory = number(said["messages_per_s"]), size(said["memory_bytes"])
    return said["id"], said["state"], said["agents"], rate, f"{said['cpu_percent']} %", memory, said["machine"] or NONE


def _feed_rows(said: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    entries = said["entries"] if said["is_stream"] else "no stream"
    head: tuple[object, ...] = (said["feed"], entries, number(said["per_s"]))
    for group in said["groups"]:
        yield (*head, group["group"], lag(group), behind(group), group["pending"])
        head = ("", "", "")
    if not said["groups"]:
        yield (*head, NONE, NONE, NONE, NONE)


def lag_rows(said: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """A feed by its groups, a row each."""
    head: tuple[object, ...] = (said["feed"], said["entries"] if said["is_stream"] else "no stream")
    for one in said["groups"]:
        yield (*head, one["group"], one["consumers"], one["last_delivered"], lag(one), behind(one), one["pending"])
        head = ("", "")
    if not said["groups"]:
        yield (*head, *[NONE] * 6)


def lag(group: Mapping[str, Any]) -> str:
    """How many entries a group lags; with a + where there are more."""
    return f"{group['lag']}{'+' if group['lag_is_more'] else ''}"


def behind(group: Mapping[str, Any]) -> str:
    """How far a group is behind, in time."""
    return duration(group["behind_s"]) if group["lag"] else "0s"


def number(value: float | None) -> str:
    """A rate."""
    return NONE if value is None else f"{value:.1f}"


def size(value_bytes: int | None) -> str:
    """Memory."""
    return NONE if value_bytes is None else f"{value_bytes / 2**20:.1f} MiB"


def duration(value_s: float) -> str:
    """A span of time, in its largest unit."""
    return next((f"{int(value_s // unit)}{name}" for name, unit in _UNITS if value_s >= unit), f"{value_s:.0f}s")
