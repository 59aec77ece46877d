"""`size`: "so many agents, tasks and log lines a second": how many nodes, how much memory, which Redis - from what was measured here.

Measures nothing itself. Rules: a process is planned for 60 % of a CPU, which leaves room for a node that drains and for a storm; a node
holds at most as many agents as it takes by default; what Redis keeps, it keeps as long as the defaults say.
"""

import math
from collections.abc import Mapping

from msgspec import Struct

from cluster.feeds import GENERATION_MS
from cluster.keys import RECORD_MS
from cluster.lab.bench.findings import Chart, Findings
from cluster.settings import Settings

NEEDS = ("connect", "idle", "logs", "dispatch", "roundtrip", "batch")
_BUSY = 0.6
_OPEN_S = 60  # how long a task is taken to be open
_PROCESS_MIB = 48  # of a node or router without agents
_MIB, _KIB = 1 << 20, 1 << 10


class Wanted(Struct, frozen=True):
    """What the cluster is to carry."""

    agents: int = 10_000
    tasks_per_s: float = 50.0
    lines_per_s: float = 1000.0


class _Cpu(Struct, frozen=True):
    """CPU seconds a second, by what they are spent on."""

    idle: float
    tasks: float
    lines: float

    @property
    def whole(self) -> float:
        return self.idle + self.tasks + self.lines


def answer(wanted: Wanted, measured: Mapping[str, Findings]) -> Findings:
    """The plan. `measured` has what NEEDS names."""
    found = Findings("size")
    idle, tasks, logs = measured["idle"], measured["roundtrip"], measured["logs"]
    node = _Cpu(
        max(0.0, wanted.agents * idle.value("CPU an idle agent, node")) / 1e6,
        wanted.tasks_per_s * tasks.value("CPU a task and its end, node") / 1e6,
        wanted.lines_per_s * logs.value("CPU a line, node, one a message") / 1e6,
    )
    redis = _Cpu(
        max(0.0, wanted.agents * idle.value("CPU an idle agent, Redis")) / 1e6,
        wanted.tasks_per_s * tasks.value("CPU a task and its end, Redis") / 1e6,
        wanted.lines_per_s * logs.value("CPU a line, Redis, one a message") / 1e6,
    )
    router = wanted.tasks_per_s * measured["dispatch"].value("CPU a POST, router") / 1e6
    per_node = Settings().agent.max_connections
    nodes = max(1, math.ceil(node.whole / _BUSY), math.ceil(wanted.agents / per_node))
    for name, value in (
        ("agents", wanted.agents),
        ("tasks/s", wanted.tasks_per_s),
        ("log lines/s", wanted.lines_per_s),
    ):
        found.read(f"wanted: {name}", value, "")
    found.read("nodes", nodes, "")
    found.read("nodes, so that one may be lost", nodes + 1, "")
    found.read("routers", max(1, math.ceil(router / _BUSY)), "")
    found.read("CPU of all nodes", node.whole * 100, "%")
    found.read("CPU of all routers", router * 100, "%")
    found.read("CPU of Redis", redis.whole * 100, "%")
    agent_kib = max(0.0, measured["connect"].value("memory an idle agent, node"))
    found.read("memory of a node", _PROCESS_MIB + wanted.agents / nodes * agent_kib * _KIB / _MIB, "MiB")
    memory = _redis_memory(wanted, measured)
    found.read("memory of Redis", sum(memory.values()) / _MIB, "MiB")
    found.notes.append(_which_redis(redis.whole))
    found.notes.append("an append-only file takes as much again while it is rewritten; plan twice the memory for Redis")
    found.charts.append(
        Chart("CPU", "%", ["idle agents", "tasks", "log lines"], {
            "nodes": [node.idle * 100, node.tasks * 100, node.lines * 100],
            "Redis": [redis.idle * 100, redis.tasks * 100, redis.lines * 100],
        })
    )  # fmt: skip
    found.charts.append(
        Chart("Memory of Redis", "MiB", list(memory), {"memory": [size / _MIB for size in memory.values()]})
    )
    return found


def _redis_memory(wanted: Wanted, measured: Mapping[str, Findings]) -> dict[str, float]:
    """Bytes, by what they are kept for."""
    batch, logs = measured["batch"], measured["logs"]
    settings = Settings()
    lines = min(settings.log_stream.max_len, wanted.lines_per_s * settings.log_stream.max_age_s)
    ids_s = 2 * GENERATION_MS / 1000
    parts = {
        "agents": wanted.agents * measured["connect"].value("Redis memory an agent"),
        "open tasks": wanted.tasks_per_s * _OPEN_S * batch.value("Redis memory an open task"),
        "ended tasks": wanted.tasks_per_s * RECORD_MS / 1000 * batch.value("Redis memory an ended task"),
        "results feed": settings.result_stream.keep * batch.value("Redis memory an entry of the results feed"),
        "log feed": lines * logs.value("Redis memory a line"),
        "dedupe": ids_s * (
            wanted.tasks_per_s * batch.value("Redis memory a deduplicated result")
            + wanted.lines_per_s * logs.value("Redis memory a deduplicated line")
        ),
    }  # fmt: skip
    return {name: max(0.0, size) for name, size in parts.items()}


def _which_redis(cpu: float) -> str:
    if cpu <= _BUSY:
        return f"one Redis will do: a CPU like this one would be busy for {cpu:.0%}"
    return f"one Redis is not enough: it would need {cpu:.1f} CPUs like this one, and uses one; Redis Cluster, or fewer lines a second"
