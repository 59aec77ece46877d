"""Runs scenarios, one after the other, each on clusters of its own; several times where medians are wanted."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from cluster.lab.bench.findings import Findings, medians
from cluster.lab.bench.scenarios import connect, dispatch, logs, results
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.steps import Progress, Step


class Scenario(NamedTuple):
    """What can be measured: how, in how many steps, and what for."""

    run: Callable[[Sizes, Step], Awaitable[Findings]]
    steps: int
    about: str


SCENARIOS: Final = {
    "connect": Scenario(connect.run, connect.STEPS, "register and connect: CPU, rate, memory an idle agent"),
    "results": Scenario(results.run, results.STEPS, "durable results: CPU in node and Redis, batch sizes"),
    "logs": Scenario(logs.run, logs.STEPS, "durable log lines: CPU in node and Redis, batch sizes"),
    "dispatch": Scenario(dispatch.run, dispatch.STEPS, "POST to agent: CPU, and latency in an open loop"),
}


async def run(names: Sequence[str], sizes: Sizes, repeat: int, progress: Progress) -> list[Findings]:
    """Measures these scenarios. Raises: StartError."""
    found = []
    for name in names:
        scenario = SCENARIOS[name]
        runs = []
        for number in range(1, repeat + 1):
            title = f"{name} {number}/{repeat}" if repeat > 1 else name
            runs.append(await scenario.run(sizes, progress.begin(title, scenario.steps)))
            progress.end()
        found.append(medians(runs))
    return found
