"""Runs scenarios, one after the other, each on clusters of its own; several times where medians are wanted."""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from cluster.lab.bench.findings import Findings, medians
from cluster.lab.bench.scenarios import (
    batch,
    connect,
    dispatch,
    idle,
    logs,
    results,
    roundtrip,
    scale,
    size,
    storm,
)
from cluster.lab.bench.scenarios.size import Wanted
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.steps import Progress, Step


class Scenario(NamedTuple):
    """What can be measured: how, in how many steps, and what for."""

    run: Callable[[Sizes, Step], Awaitable[Findings]]
    steps: int
    about: str


SCENARIOS: Final = {
    "connect": Scenario(connect.run, connect.STEPS, "register and connect: CPU, rate, memory an idle agent"),
    "idle": Scenario(idle.run, idle.STEPS, "agents that only live: CPU; messages and stalls among many"),
    "results": Scenario(results.run, results.STEPS, "durable results: CPU in node and Redis, batch sizes"),
    "logs": Scenario(logs.run, logs.STEPS, "durable log lines: CPU in node and Redis, batch sizes"),
    "dispatch": Scenario(dispatch.run, dispatch.STEPS, "POST to agent: CPU, and latency in an open loop"),
    "roundtrip": Scenario(
        roundtrip.run, roundtrip.STEPS, "POST to the result in the feed: CPU of both ends, latency in an open loop"
    ),
    "batch": Scenario(batch.run, batch.STEPS, "the batch call: CPU a task; what Redis keeps of tasks"),
    "storm": Scenario(storm.run, storm.STEPS, "all agents are reset and return"),
    "scale": Scenario(scale.run, scale.STEPS, "more nodes: CPU a message must stay flat"),
}
SIZE, ALL = "size", "all"
ABOUT: Final = {
    **{name: scenario.about for name, scenario in SCENARIOS.items()},
    SIZE: "how many nodes, how much memory, which Redis, by what was measured here",
}
NAMES: Final = (*SCENARIOS, SIZE, ALL)


async def run(
    name: str, sizes: Sizes, repeat: int, wanted: Wanted, progress: Progress, tell: Callable[[Findings], None]
) -> list[Findings]:
    """Measures one scenario, or all, and tells of each as it ends. Raises: StartError."""
    found: dict[str, Findings] = {}
    for one in {ALL: tuple(SCENARIOS), SIZE: size.NEEDS}.get(name, (name,)):
        found[one] = await _measured(one, sizes, repeat, progress)
        tell(found[one])
    if name in (ALL, SIZE):
        found[SIZE] = size.answer(wanted, found)
        tell(found[SIZE])
    return list(found.values())


async def _measured(name: str, sizes: Sizes, repeat: int, progress: Progress) -> Findings:
    scenario, runs = SCENARIOS[name], []
    for number in range(1, repeat + 1):
        title = f"{name} {number}/{repeat}" if repeat > 1 else name
        runs.append(await scenario.run(sizes, progress.begin(title, scenario.steps)))
        progress.end()
    return medians(runs)
