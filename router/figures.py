"""The metrics of a router, by name: what its rooms count, and what Redis says of the whole cluster. Counts nothing itself."""

from collections.abc import Callable, Iterable, Mapping

from cluster import nodes
from cluster.census import FeedState
from cluster.metrics import Counters
from cluster.trimming import Trimmer
from router.bookkeeping import Bookkeeping
from router.handover import Handover

SWEPT = {
    "leases_expired": ("lease_expired", "Agents that were silent for the heartbeat timeout"),
    "debts_paid": ("entry_paid", "Entries of feeds written in place of a process that died"),
    "feed_entries_trimmed": (
        "entry_trimmed",
        "Entries of feeds that were dropped, by age or because every group had them",
    ),
    "agents_forgotten": ("agent_forgotten", "Agents that stayed away for agent.forget_after"),
}
STATES = (nodes.STARTING, nodes.READY, nodes.DRAINING)


def of_handover(counters: Counters, handover: Handover) -> None:
    """Connections on their way to nodes of this machine."""
    counters.counters(
        "handovers", "WebSocket upgrades that came to this router", ("outcome",),
        lambda: {("given",): handover.given, ("refused",): handover.refused},
    )  # fmt: skip
    counters.gauge("handovers_waiting", "Upgrades that wait for a node", lambda: handover.held)


def of_sweeps(counters: Counters, swept: Mapping[str, int], trimmer: Trimmer) -> None:
    """What time ended."""
    for name, (key, meaning) in SWEPT.items():
        counters.counted(name, meaning, _one(swept, key))
    counters.counted(
        "feed_entries_dropped",
        "Entries over a feed's max_len that were dropped, read or not",
        lambda: trimmer.over_max_len,
    )


def of_nodes(counters: Counters, states: Callable[[], Mapping[str, int]]) -> None:
    """The nodes that say that they live."""
    counters.gauges(
        "nodes", "Nodes of the cluster, the same from each router", "state",
        lambda: {state: float(states().get(state, 0)) for state in STATES},
    )  # fmt: skip


def of_cluster(counters: Counters, books: Bookkeeping) -> None:
    """Read from Redis every few seconds, the same from each router: to be taken the maximum of, not the sum."""
    counters.counted(
        "ledger_tasks_accepted", "Tasks accepted since the books were opened", lambda: books.ledger.accepted
    )
    counters.counted("ledger_tasks_ended", "Accepted tasks that have ended", lambda: books.ledger.ended)
    counters.gauge("ledger_tasks_open", "Accepted tasks that have not ended", lambda: books.ledger.open)
    counters.gauge(
        "ledger_tasks_off",
        "Tasks that do not add up: not 0 is an alarm (agent-server status --check)",
        lambda: books.ledger.tasks_off,
    )
    counters.counted(
        "ledger_entries_owed",
        "Ends that were owed to a feed: the cluster's own of tasks, and of connections",
        lambda: books.ledger.owed,
    )
    counters.counted(
        "ledger_entries_written",
        "Owed ends that were written to their feed",
        lambda: books.ledger.written,
    )
    counters.gauge(
        "ledger_entries_waiting",
        "Owed ends that are not in their feed yet",
        lambda: books.ledger.waiting,
    )
    counters.gauge(
        "ledger_entries_off",
        "Entries that do not add up: not 0 is an alarm (agent-server status --check)",
        lambda: books.ledger.entries_off,
    )
    counters.gauge("registered_agents", "Agents that the cluster knows", lambda: books.census.agents)
    counters.gauge("online_agents", "Agents that a node holds", lambda: books.census.online)
    counters.gauge(
        "agents_with_pending_tasks",
        "Agents with tasks that were never handed out, at the most",
        lambda: books.census.agents_with_pending,
    )
    counters.gauge(
        "oldest_pending_task_age_seconds", "Age of the oldest task that was never handed out; 0 when none waits",
        lambda: books.census.oldest_pending_s,
    )  # fmt: skip
    counters.gauge("redis_memory_used_bytes", "Memory that Redis uses", lambda: books.census.used_bytes)
    counters.gauge("redis_memory_limit_bytes", "Redis's maxmemory; 0 = none", lambda: books.census.limit_bytes)
    _of_feeds(counters, books)


def _of_feeds(counters: Counters, books: Bookkeeping) -> None:
    def feeds() -> Iterable[tuple[str, FeedState]]:
        return books.census.feeds.items()

    counters.gauges("feed_entries", "Length of a feed", "feed", lambda: {name: feed.entries for name, feed in feeds()})
    counters.gauges(
        "feed_consumer_groups", "Groups that read a feed", "feed", lambda: {name: feed.groups for name, feed in feeds()}
    )
    counters.gauges(
        "feed_consumer_lag_seconds", "How long the first entry waits that some group did not read", "feed",
        lambda: {name: feed.lag_s for name, feed in feeds() if feed.lag_s is not None},
    )  # fmt: skip
    counters.gauges(
        "feed_consumer_lag_entries", "Entries that the slowest group did not read; only where Redis (7 and newer) tells", "feed",
        lambda: {name: feed.lag_entries for name, feed in feeds() if feed.lag_entries is not None},
    )  # fmt: skip


def _one(tally: Mapping[str, int], key: str) -> Callable[[], int]:
    return lambda: tally[key]
