"""`storm`: all connections are reset in one moment, and all agents dial again at once. How long until they are back, and at what cost."""

from cluster.lab.bench.crew import fleet
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, cluster_of
from cluster.lab.bench.steps import Step

STEPS = 2
NODES = 2
PARTS = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("last", 1.0))


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("storm")
    async with cluster_of(NODES) as stage, fleet(sizes.storm) as crowd:
        step(f"connecting {sizes.storm}")
        await crowd.grow(HOST, stage.port, sizes.storm)
        step("the storm")
        meter = stage.meter()
        tally = await crowd.storm(HOST, stage.port, sizes.storm)
        spent_s = meter.spent_s()
    back = [found.read(f"back, {name}", tally.percentile_ms(share) / 1000, "s") for name, share in PARTS]
    found.read("agents", tally.done, "")
    found.read("returns/s", tally.per_s, "/s")
    found.read("attempts refused or timed out", tally.failed, "")
    found.read("CPU a return, router", spent_s["r1"] * 1e6 / max(1, tally.done), "us")
    found.read("CPU a return, nodes", sum(spent_s[name] for name in stage.nodes) * 1e6 / max(1, tally.done), "us")
    found.read("CPU a return, Redis", spent_s["redis"] * 1e6 / max(1, tally.done), "us")
    found.charts.append(
        Chart(f"Until {sizes.storm:,} agents were back", "s", [name for name, _ in PARTS], {"time": back})
    )
    return found
