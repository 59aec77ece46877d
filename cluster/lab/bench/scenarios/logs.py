"""`logs`: what a durable log line costs, alone in its message as real agents send them, and with 19 others; beside a durable result."""

from cluster.lab.bench.crew import fleet
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.redis_facts import facts_of
from cluster.lab.bench.scenarios.results import flooded
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, cluster_of
from cluster.lab.bench.steps import Step

STEPS = 4
MANY = 20
FEED = "agent_logs"


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("logs")
    step("connecting")
    async with (
        cluster_of(1) as stage,
        fleet(sizes.agents, stage.pids["n1"]) as crowd,
        facts_of(stage.redis_url) as redis,
    ):
        await crowd.grow(HOST, stage.port, sizes.agents)
        step("results")
        result = await flooded(stage, redis, crowd, sizes, "result")
        step("one line a message")
        one = await flooded(stage, redis, crowd, sizes, "log")
        step(f"{MANY} lines a message")
        many = await flooded(stage, redis, crowd, sizes, "log", MANY)
        length = await redis.length(FEED)
        line_bytes = await redis.usage_bytes(FEED) / max(1, length)
        ids = await redis.members(f"*{FEED}*seen*")
        seen_bytes = await redis.usage_bytes(f"*{FEED}*seen*") / max(1, ids)
    for cost, lines, how in ((one, 1, "one a message"), (many, MANY, f"{MANY} a message")):
        found.read(f"CPU a line, node, {how}", cost.node_us / lines, "us")
        found.read(f"CPU a line, Redis, {how}", cost.redis_us / lines, "us")
        found.read(f"lines/s, {how}", cost.tally.per_s * lines, "/s")
        found.read(f"messages a script call, {how}", cost.per_call, "")
        found.read(f"messages not acked, {how}", cost.tally.failed, "")
    found.read("CPU a result, node, beside it", result.node_us, "us")
    found.read("lines in the feed", length, "")
    found.read("Redis memory a line", line_bytes, "B")
    found.read("Redis memory a deduplicated line", seen_bytes, "B")
    found.figure("log_line", one.node_us, result.node_us)
    found.figure("log_lines", many.node_us / MANY, one.node_us)
    found.charts.append(
        Chart(
            "CPU a line", "us", ["node, one a message", f"node, {MANY} a message", "Redis, one a message", f"Redis, {MANY} a message"],
            {"CPU": [one.node_us, many.node_us / MANY, one.redis_us, many.redis_us / MANY]},
        )
    )  # fmt: skip
    return found
