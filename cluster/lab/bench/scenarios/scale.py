"""`scale`: the same load an agent on more and more nodes, each with its own agents. What a message costs must stay flat."""

from cluster.lab.bench.crew import fleet
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.redis_facts import facts_of
from cluster.lab.bench.scenarios.results import Cost, flooded
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, cluster_of
from cluster.lab.bench.steps import Step

STEPS = 6
SHARE = 4  # of the agents of other scenarios: so many a node


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("scale")
    costs: dict[int, Cost] = {}
    for nodes in sizes.scale_nodes:
        agents = nodes * max(1, sizes.agents // SHARE)
        step(f"{nodes} nodes, connecting {agents}")
        async with cluster_of(nodes) as stage, fleet(agents) as crowd, facts_of(stage.redis_url) as redis:
            await crowd.grow(HOST, stage.port, agents)
            step(f"{nodes} nodes, results")
            costs[nodes] = await flooded(stage, redis, crowd, sizes, "result")
    for nodes, cost in costs.items():
        found.read(f"CPU a result, {nodes} nodes, all of them", cost.node_us, "us")
        found.read(f"CPU a result, {nodes} nodes, Redis", cost.redis_us, "us")
        found.read(f"results a script call, {nodes} nodes", cost.per_call, "")
        found.read(f"results/s, {nodes} nodes", cost.tally.per_s, "/s")
    first, last = costs[min(costs)], costs[max(costs)]
    found.read(f"cost of a result, {max(costs)} nodes to {min(costs)}", last.node_us / (first.node_us or 1.0), "")
    found.charts.append(
        Chart(
            "CPU a result, by nodes", "us", [str(nodes) for nodes in costs],
            {"nodes": [cost.node_us for cost in costs.values()], "Redis": [cost.redis_us for cost in costs.values()]}, is_line=True,
        )
    )  # fmt: skip
    return found
