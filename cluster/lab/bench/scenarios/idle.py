"""`idle`: what agents cost that only live: CPU, memory, and whether a message costs more when many are connected, or the loop stands still."""

import asyncio
import time
from typing import NamedTuple

from cluster.lab.bench import limits
from cluster.lab.bench.crew import Fleet, Worker, fleet, worker
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.meter import memory_bytes
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, Stage, cluster_of
from cluster.lab.bench.steps import Step
from cluster.lab.bench.tally import Tally, percentile

STEPS = 7
HEARTBEAT_S = 10
_KIB = 1024


class Talk(NamedTuple):
    """What a node spent while its agents talked, and for how long that was."""

    spent_s: float
    seconds: float
    tally: Tally
    stalls: Tally

    def message_us(self, idle_cpu: float) -> float:
        """CPU us a message, beyond what these agents cost when they say nothing."""
        return (self.spent_s - idle_cpu * self.seconds) * 1e6 / max(1, self.tally.done)


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("idle")
    few, crowd_size = sizes.few, sizes.crowd
    async with cluster_of(1) as stage, fleet(crowd_size, stage.pids["n1"]) as crowd, worker(stage.pids["n1"]) as prober:
        node = stage.pids["n1"]
        step("nobody connected")
        base = await _idle(stage, None, sizes.idle_s / 4)
        step(f"connecting {few}")
        await crowd.grow(HOST, stage.port, few)
        memory = memory_bytes(node)
        step(f"messages of {few}")
        of_few = await _talking(stage, crowd, prober, sizes)
        step(f"connecting {crowd_size}")
        await crowd.grow(HOST, stage.port, crowd_size)
        slope = (memory_bytes(node) - memory) / (crowd_size - few) / _KIB
        step("heartbeats")
        idle = await _idle(stage, crowd, sizes.idle_s)
        step(f"messages of {crowd_size}")
        of_all = await _talking(stage, crowd, prober, sizes)
    step("picows alone")
    picows = await limits.heartbeats_cpu(crowd_size, HEARTBEAT_S, sizes.idle_s)
    stalls = of_all.stalls
    with_all = of_all.message_us(idle["n1"])
    with_few = of_few.message_us(base["n1"] + (idle["n1"] - base["n1"]) * few / crowd_size)
    per_agent = {name: (idle[name] - base[name]) * 1e6 / crowd_size for name in idle}
    found.read("agents connected", crowd_size, "")
    found.read("CPU an idle agent, node", per_agent["n1"], "us/s")
    found.read("CPU an idle agent, Redis", per_agent["redis"], "us/s")
    if picows is not None:
        found.read("CPU an idle agent, picows", picows, "us/s")
    found.read("CPU of a node with nobody connected", base["n1"] * 100, "%")
    found.read("CPU of a node with all connected", idle["n1"] * 100, "%")
    found.read("messages/s, all connected", of_all.tally.per_s, "/s")
    found.read(f"CPU a message, {few} connected", with_few, "us")
    found.read(f"CPU a message, {crowd_size} connected", with_all, "us")
    found.read(f"memory an idle agent, node, from {few} to {crowd_size}", slope, "KiB")
    found.read("longest stall of the loop", max(stalls.latencies_us, default=0) / 1000, "ms")
    found.read("p99.9 of a ping's round trip", percentile(stalls.latencies_us, 0.999) / 1000, "ms")
    as_stated = (few, crowd_size) == (1000, 18_000)
    note = "" if as_stated else f"here {crowd_size:,} and {few:,}"
    found.figure("idle", per_agent["n1"], picows)
    found.figure("crowd", with_all, with_few, note)
    found.figure("stall", max(stalls.latencies_us, default=0) / 1000)
    found.charts.append(
        Chart("CPU an idle agent", "us/s", ["node", "Redis", "picows"], {"CPU": [per_agent["n1"], per_agent["redis"], picows or 0.0]})
    )  # fmt: skip
    found.charts.append(
        Chart(
            "CPU a message, by agents connected", "us", [f"{few:,}", f"{crowd_size:,}"], {"CPU": [with_few, with_all]}
        )
    )
    found.notes.append(
        "CPU a message is what it costs beyond agents that only live; each agent that talks has statistics in a feed every 30 s"
    )
    found.notes.append("stalls are round trips of a ping, less the time for which node or probe waited for a CPU")
    return found


async def _idle(stage: Stage, crowd: Fleet | None, seconds: float) -> dict[str, float]:
    """CPU seconds a second of each process, while agents that are there say that they live."""
    meter = stage.meter()
    if crowd is None:
        await asyncio.sleep(seconds)
    else:
        await crowd.pace("heartbeat", crowd.count / HEARTBEAT_S, seconds)
    return {name: spent / seconds for name, spent in meter.spent_s().items()}


async def _talking(stage: Stage, crowd: Fleet, prober: Worker, sizes: Sizes) -> Talk:
    """Messages at a fixed rate, spread over all that are connected and say that they live; and how long the loop stood still."""
    beats_per_s = crowd.count / HEARTBEAT_S
    await crowd.pace("result", sizes.crowd_per_s, sizes.warm_s)
    meter, began = stage.meter(), time.monotonic()
    tally, stalls = await asyncio.gather(
        crowd.pace("result", sizes.crowd_per_s, sizes.idle_s, heartbeats_per_s=beats_per_s),
        prober.do("probe.watch", host=HOST, port=stage.port, pid=stage.pids["n1"], seconds=sizes.idle_s),
    )
    return Talk(meter.spent_s()["n1"], time.monotonic() - began, tally, stalls)
