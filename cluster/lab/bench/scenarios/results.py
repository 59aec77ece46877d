"""`results`: what a durable result costs, from its frame to its ack, in the node and in Redis; beside the same without Redis and picows."""

from cluster.lab.bench import limits
from cluster.lab.bench.crew import Fleet, fleet
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.redis_facts import RedisFacts, facts_of
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, Stage, cluster_of
from cluster.lab.bench.steps import Step
from cluster.lab.bench.tally import Tally

STEPS = 6
FEED = "agent_results"


class Cost:
    """CPU us a message, and how many shared a call of Redis's scripts."""

    def __init__(self, tally: Tally, spent_s: dict[str, float], calls: int) -> None:
        done = max(1, tally.done)
        self.tally = tally
        self.redis_us = spent_s["redis"] * 1e6 / done
        self.node_us = sum(spent for name, spent in spent_s.items() if name.startswith("n")) * 1e6 / done
        self.per_call = done / max(1, calls)


async def flooded(stage: Stage, redis: RedisFacts, crowd: Fleet, sizes: Sizes, kind: str, lines: int = 1) -> Cost:
    """The cost while each agent has one message under way: batches as full as they get."""
    await crowd.flood(kind, sizes.warm_s, lines=lines)
    calls, meter = await redis.calls("evalsha"), stage.meter()
    tally = await crowd.flood(kind, sizes.window_s, lines=lines)
    return Cost(tally, meter.spent_s(), await redis.calls("evalsha") - calls)


async def spread(stage: Stage, redis: RedisFacts, crowd: Fleet, per_s: float, seconds: float) -> Cost:
    """The cost at a rate below saturation: batches are small."""
    calls, meter = await redis.calls("evalsha"), stage.meter()
    tally = await crowd.pace("result", per_s, seconds)
    return Cost(tally, meter.spent_s(), await redis.calls("evalsha") - calls)


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("results")
    step("picows alone")
    picows = await limits.message_us(limits.PICOWS, sizes.agents, "result", sizes.window_s, sizes.warm_s)
    step("a node without Redis")
    bare = await limits.message_us(limits.NO_REDIS, sizes.agents, "result", sizes.window_s, sizes.warm_s) or 0.0
    step("connecting")
    async with (
        cluster_of(1) as stage,
        fleet(sizes.agents, stage.pids["n1"]) as crowd,
        facts_of(stage.redis_url) as redis,
    ):
        await crowd.grow(HOST, stage.port, sizes.agents)
        step("full batches")
        full = await flooded(stage, redis, crowd, sizes, "result")
        step("small batches")
        per_s = min(sizes.spread_per_s, full.tally.per_s / 2)  # beyond it batches would be full again
        small = await spread(stage, redis, crowd, per_s, sizes.window_s)
        step("XADD alone")
        xadd = await limits.xadd_us(stage, await redis.newest(FEED), sizes.xadds)
    _tell(found, full, "full batches")
    _tell(found, small, "small batches")
    found.read("results/s, full batches", full.tally.per_s, "/s")
    found.read("results/s, small batches", small.tally.per_s, "/s")
    found.read("ack p50, small batches", small.tally.percentile_ms(0.5), "ms")
    found.read("ack p99, small batches", small.tally.percentile_ms(0.99), "ms")
    found.read("CPU a message, node without Redis", bare, "us")
    if picows is not None:
        found.read("CPU a message, picows", picows, "us")
    found.read("Redis CPU an XADD, pipelined", xadd, "us")
    found.figure("frame", bare, picows)
    found.figure("result", full.node_us, bare)
    found.figure("result_spread", small.node_us, note=_rate_note(per_s, sizes.agents))
    found.figure("result_redis", full.redis_us, xadd)
    found.charts.append(
        Chart(
            "CPU a message", "us", ["picows", "node, no Redis", "node, full batches", "node, small batches", "Redis, full batches",
            "Redis, small batches", "Redis, XADD alone"],
            {"CPU": [picows or 0.0, bare, full.node_us, small.node_us, full.redis_us, small.redis_us, xadd]},
        )
    )  # fmt: skip
    found.notes.append(f"XADD alone is driven by {limits.xadd_by()}")
    return found


def _tell(found: Findings, cost: Cost, how: str) -> None:
    found.read(f"CPU a result, node, {how}", cost.node_us, "us")
    found.read(f"CPU a result, Redis, {how}", cost.redis_us, "us")
    found.read(f"results a script call, {how}", cost.per_call, "")
    found.read(f"results not acked, {how}", cost.tally.failed, "")


def _rate_note(per_s: float, agents: int) -> str:
    return "" if (per_s, agents) == (5000, 2000) else f"here {per_s:,.0f}/s over {agents:,}"
