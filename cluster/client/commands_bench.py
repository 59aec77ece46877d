"""`bench`: what the cluster costs on this machine. Starts clusters of its own; asks none that runs."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import ConfigError

Scenario = Annotated[str, typer.Argument(metavar="[SCENARIO]", help="One of those below, or all.")]
Scale = Annotated[str, typer.Option(metavar="SIZE", help="tiny, small, normal or large: how much load.")]
Agents = Annotated[int, typer.Option(metavar="N", min=1, help="size: how many agents.")]
Tasks = Annotated[float, typer.Option(metavar="N", min=0, help="size: tasks a second.")]
Logs = Annotated[float, typer.Option(metavar="N", min=0, help="size: log lines a second.")]
Repeat = Annotated[int, typer.Option(metavar="N", min=1, help="How often each scenario runs; medians are told.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="All numbers, for programs.")]
Report = Annotated[Path | None, typer.Option(metavar="FILE", help="One HTML page with charts.")]


def bench(
    scenario: Scenario = "all",
    scale: Scale = "normal",
    repeat: Repeat = 1,
    json: JsonFile = None,
    report: Report = None,
    agents: Agents = 10_000,
    tasks: Tasks = 50.0,
    logs: Logs = 1000.0,
) -> None:
    """Measure what the cluster costs on this machine.

    Beside it stands what its parts cost alone.
    Scenarios: connect, idle, results, logs, dispatch, roundtrip, batch, storm, scale; size: how large a cluster has to be; all.
    """
    import asyncio  # noqa: PLC0415 - nobody else has a use for what follows

    from cluster.lab.bench import machine, outcome  # noqa: PLC0415
    from cluster.lab.bench.run import NAMES, run  # noqa: PLC0415
    from cluster.lab.bench.scenarios.size import Wanted  # noqa: PLC0415
    from cluster.lab.bench.sizes import SIZES  # noqa: PLC0415
    from cluster.lab.bench.steps import Progress  # noqa: PLC0415

    if scenario not in NAMES:
        raise ConfigError(f"no scenario {scenario}: {', '.join(NAMES)}")
    if scale not in SIZES:
        raise ConfigError(f"no scale {scale}: {', '.join(SIZES)}")
    wanted = Wanted(agents, tasks, logs)
    facts, how = machine.facts(), f"{scenario}, scale {scale}, runs: {repeat}"
    found = asyncio.run(run(scenario, SIZES[scale], repeat, wanted, Progress(), outcome.tell))
    outcome.tell_figures(found, facts)
    if json:
        outcome.write_json(json, found, facts, how)
    if report:
        outcome.write_report(report, found, facts, how)
