"""The metrics of a node, by name: what its rooms count, as Prometheus is told. Decides nothing, and counts nothing itself."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cluster import nodes
from cluster.feeds import Feeds
from cluster.metrics import Counters
from node.adoption import Adoption
from node.crew import NodeCrew
from node.delivery import Courier
from node.hub import Hub
from node.intake import ROOM, SESSION
from node.socket import Link
from node.traffic import RECEIVED, Flow
from node.uplink import Lane
from node.wheel import Wheel

REFUSED = (
    "queue", "token", "contested", "draining", "unavailable", "full", "origin", "unknown", "malformed", "timeout",
)  # fmt: skip
DROPPED = {
    "malformed": "malformed", "unknown_type": "ignored", "without_message_id": "without_message_id",
    "without_content": "without_content", "late_log": "log_late",
}  # fmt: skip
WRITTEN = {
    "log": "log", "result_end": "result_end", "result_progress": "result_progress", "result_lost": "result_lost",
}  # fmt: skip
Lanes = Mapping[str, Lane[Any]]
QUEUES: tuple[tuple[str, str, Callable[[Lane[Any]], float]], ...] = (
    ("uplink_queued_messages", "Messages of agents that wait for their feed", len),
    (
        "uplink_queued_bytes",
        "What messages of agents that wait for their feed are taken to weigh",
        lambda lane: lane.size_bytes,
    ),
    (
        "uplink_oldest_message_age_seconds",
        "For how long the oldest message of an agent waits for its feed",
        lambda lane: lane.oldest_s,
    ),
)
STATES = (nodes.STARTING, nodes.READY, nodes.DRAINING)


def of_connections(counters: Counters, events: Mapping[str, int], crew: NodeCrew, hub: Hub, wheel: Wheel) -> None:
    """Who is connected, who came and went, who was refused, who waits."""
    counters.gauge("connected_agents", "Agents connected to this node", lambda: len(hub))
    counters.counted("connections_opened", "Handshakes that were accepted", lambda: events["connected"])
    counters.renamed(
        "connections_closed",
        "Connections that ended, by their close code",
        "reason",
        crew.closed,
        _as_they_are(crew.closed),
    )
    counters.renamed(
        "handshakes_refused",
        "Handshakes that were refused",
        "reason",
        events,
        {why: f"refused_{why}" for why in REFUSED},
    )
    counters.counted("leases_lost", "Connections closed because their lease was lost", lambda: events["lease_lost"])
    counters.counted("flood_pauses", "Pauses of agents over websocket.max_messages_per_s", lambda: events["flood"])
    counters.gauges(
        "paused_sockets",
        "Sockets that are not read from: their node waits for Redis, or for room",
        "reason",
        lambda: _paused(wheel),
    )
    counters.gauge("slow_readers", "Agents that leave what they are sent unread", lambda: len(list(_slow(wheel))))
    counters.gauge(
        "slow_readers_buffer_bytes",
        "Bytes that wait for agents which leave them unread",
        lambda: sum(link.unread_bytes for link in _slow(wheel)),
    )
    counters.gauge("large_messages_buffer_bytes", "Unfinished messages over 64 KiB", lambda: wheel.room.held_bytes)


def of_adoption(counters: Counters, adoption: Adoption) -> None:
    """Sockets that the router of this machine handed over."""
    counters.counters(
        "adopted_sockets", "Sockets that a router handed over", ("outcome",),
        lambda: {("adopted",): adoption.adopted, ("broken",): adoption.broken},
    )  # fmt: skip


def of_messages(counters: Counters, events: Mapping[str, int], crew: NodeCrew, feeds: Feeds, lanes: Lanes) -> None:
    """What agents say and are told, and what becomes of it."""
    received = {kind: crew.received[kind] for kind in RECEIVED} | {"malformed": crew.received.malformed}
    _flows(counters, "received", "from agents, without frame heads", received)
    _flows(counters, "sent", "to agents, with frame heads", crew.sent)
    counters.renamed("messages_dropped", "Messages of agents that were dropped", "reason", events, DROPPED)
    counters.renamed(
        "messages_written",
        "Messages of agents that were given to their feed, which leaves out those that it has",
        "type",
        events,
        WRITTEN,
    )
    counters.counters(
        "messages_duplicate", "Messages acked and not written again: in their feed already, or their task had ended",
        ("type",),
        lambda: {("log",): feeds.ends.again["log"], ("result",): feeds.ends.again["result"] + events["result_not_written"]},
    )  # fmt: skip
    counters.counted(
        "results_unremembered", "Results of agents that told of too many unknown tasks", lambda: events["result_alone"]
    )
    counters.histograms(
        "ack_latency_seconds", "From the arrival of a message until its ack was written", ("type",),
        {(name,): lane.waits for name, lane in lanes.items()},
    )  # fmt: skip
    for name, meaning, read in QUEUES:
        counters.gauges(name, meaning, "type", _of_lanes(lanes, read))


def of_tasks(counters: Counters, events: Mapping[str, int], courier: Courier) -> None:
    """What is handed out."""
    counters.counted("tasks_dispatched", "Tasks written to their agent for the first time", lambda: events["task_sent"])
    counters.counted("tasks_redelivered", "Tasks written to their agent again", lambda: events["task_redelivered"])
    counters.counted(
        "stale_orders",
        "Orders that met another connection of their agent than they were for",
        lambda: events["stale_note"],
    )
    counters.gauge("deliveries_waiting", "Agents with mail that was not fetched for them yet", lambda: courier.waiting)
    counters.histograms(
        "dispatch_latency_seconds",
        "From a task's acceptance until it was written; waited: its agent was not connected when it was accepted",
        ("type",), {(name,): waits for name, waits in courier.waits.items()},
    )  # fmt: skip


def of_state(counters: Counters, read: Callable[[], str]) -> None:
    """What the node says of itself in the directory."""
    counters.gauges(
        "node_state", "1 for the state that this node is in", "state",
        lambda: {state: float(state == read()) for state in STATES},
    )  # fmt: skip


def _flows(counters: Counters, name: str, which: str, flows: Mapping[str, Flow]) -> None:
    counters.counters(
        f"messages_{name}", f"Messages {which.partition(',')[0]}", ("type",),
        lambda: {(kind,): flow.messages for kind, flow in flows.items()},
    )  # fmt: skip
    counters.counters(
        f"messages_{name}_bytes", f"Bytes of messages {which}", ("type",),
        lambda: {(kind,): flow.size_bytes for kind, flow in flows.items()},
    )  # fmt: skip


def _of_lanes(lanes: Lanes, read: Callable[[Lane[Any]], float]) -> Callable[[], Mapping[str, float]]:
    return lambda: {name: read(lane) for name, lane in lanes.items()}


def _as_they_are(tally: Mapping[str, int]) -> dict[str, str]:
    return {value: value for value in tally}


def _links(wheel: Wheel) -> Iterator[Link]:
    """Those that are in some trouble: the others are not watched."""
    return (rider for rider in wheel.watched if isinstance(rider, Link))


def _slow(wheel: Wheel) -> Iterator[Link]:
    return (link for link in _links(wheel) if not link.writable)


def _paused(wheel: Wheel) -> Mapping[str, float]:
    holds = [link.holds for link in _links(wheel)]
    return {"backlog": sum(bool(hold & SESSION) for hold in holds), "room": sum(bool(hold & ROOM) for hold in holds)}
