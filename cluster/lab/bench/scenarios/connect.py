"""`connect`: what an agent costs on its way in (registration, handshake, claim), and what it then holds of the node's memory."""

import asyncio

from cluster.lab.bench.crew import fleet
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.meter import memory_bytes
from cluster.lab.bench.redis_facts import facts_of
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, Stage, cluster_of
from cluster.lab.bench.steps import Step

STEPS = 3
_SETTLE_S = 1.0
_KIB = 1024


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("connect")
    last = sizes.connects[1]
    async with cluster_of(1) as stage:
        slope = await _single(found, stage, sizes, step)
        step("the public port")
        async with fleet(last) as crowd:
            meter = stage.meter()
            tally = await crowd.grow(HOST, stage.port, last)
            spent_s = meter.spent_s()
    cpu_us = found.value("CPU a connect, node that registers too")
    router_us = found.read("CPU a connect through the router, router", spent_s["r1"] * 1e6 / last, "us")
    node_us = found.read("CPU a connect through the router, node", spent_s["n1"] * 1e6 / last, "us")
    found.read("connects/s through the router", tally.per_s, "/s")
    found.figure("memory", slope)
    found.figure("connect", 1e6 / cpu_us if cpu_us else 0.0)
    found.charts.append(
        Chart("CPU a connect", "us", ["one node", "router (public port)", "node (public port)"], {"CPU": [cpu_us, router_us, node_us]})
    )  # fmt: skip
    return found


async def _single(found: Findings, stage: Stage, sizes: Sizes, step: Step) -> float:
    """A node that does all of it, as on a machine of its own. Returns the memory of an idle agent, in KiB."""
    first, last = sizes.connects
    async with (
        stage.single_node() as port,
        fleet(last, stage.pids["single"]) as crowd,
        facts_of(stage.redis_url) as redis,
    ):
        redis_bytes = await redis.memory_bytes()
        step(f"{first} agents, one node")
        meter = stage.meter()
        await crowd.grow(HOST, port, first)
        await asyncio.sleep(_SETTLE_S)
        memory = memory_bytes(stage.pids["single"])
        step(f"{last} agents, one node")
        tally = await crowd.grow(HOST, port, last)
        spent_s = meter.spent_s()
        await asyncio.sleep(_SETTLE_S)
        slope = (memory_bytes(stage.pids["single"]) - memory) / (last - first) / _KIB
        redis_bytes = await redis.memory_bytes() - redis_bytes
    found.read("connects/s, one node", tally.per_s, "/s")
    found.read("CPU a connect, node that registers too", spent_s["single"] * 1e6 / last, "us")
    found.read("CPU a connect, Redis", spent_s["redis"] * 1e6 / last, "us")
    found.read("handshake p50", tally.percentile_ms(0.5), "ms")
    found.read("handshake p99", tally.percentile_ms(0.99), "ms")
    found.read("refused and tried again", tally.failed, "")
    found.read("Redis memory an agent", redis_bytes / last, "B")
    return found.read("memory an idle agent, node", slope, "KiB")
