"""The metrics that every process tells, by name. Knows neither nodes nor routers."""

import asyncio
import platform
from importlib import metadata

from cluster.admin import Readiness
from cluster.ends import Ends
from cluster.metrics import Counters
from cluster.process_load import LoopLag
from cluster.redis_client import Store

DISTRIBUTION = "agent-server"


def of_process(counters: Counters, store: Store, readiness: Readiness, *, role: str, process: str) -> None:
    """Itself, its event loop, its Redis. `role`: node or router; `process`: its id. Begins to measure the loop."""
    lag = LoopLag(asyncio.get_running_loop())
    lag.start()
    facts = {
        "version": metadata.version(DISTRIBUTION),
        "python": platform.python_version(),
        "role": role,
        "process": process,
    }
    counters.info("build", "What runs here", facts)
    counters.of_this_process()
    counters.gauge(
        "ready", "1 when this process takes work: Redis answers, and it does not drain", lambda: not readiness.obstacle
    )
    counters.gauge(
        "event_loop_lag_seconds", "The latest that the event loop ran in the last 10 to 20 seconds", lag.read
    )
    counters.gauge("redis_up", "1 when Redis answered this process within 5 seconds", lambda: readiness.has_redis)
    counters.histograms(
        "redis_round_trip_seconds", "One small command, asked once or twice a second", (), {(): store.round_trips}
    )
    counters.renamed(
        "redis_errors",
        "Calls of Redis that failed",
        "reason",
        store.errors,
        {reason: reason for reason in store.errors},
    )


def of_ends(counters: Counters, ends: Ends) -> None:
    """How tasks ended whose ends this process wrote."""
    counters.counters(
        "tasks_ended", "Ends of tasks, counted where they were written: as the agent said, or the cluster decided and why",
        ("outcome", "reason"), lambda: ends.by_reason,
    )  # fmt: skip
