"""`roundtrip`: from the POST of a task to its result in the feed, through an agent that needs no time: what it costs, how long it takes."""

from cluster.lab.bench.crew import fleet, worker
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.scenarios.dispatch import PERCENTILES, SHARES, opened
from cluster.lab.bench.scenarios.results import FEED
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, cluster_of
from cluster.lab.bench.steps import Step
from cluster.lab.bench.tally import Tally

STEPS = 2 + len(SHARES)


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("roundtrip")
    late: dict[float, Tally] = {}
    async with (
        cluster_of(1) as stage,
        fleet(sizes.receivers, stage.pids["n1"]) as crowd,
        worker(stage.pids["n1"]) as caller,
        worker(stage.pids["n1"]) as reader,
    ):
        step("connecting")
        connected = await crowd.grow(HOST, stage.port, sizes.receivers)
        await crowd.take_tasks(answers=True)
        await reader.do("feed.begin", url=stage.redis_url, feed=FEED)
        await opened(caller, stage, connected.ids, sizes.calls)
        step("saturation")
        warm = await caller.do("caller.flood", seconds=sizes.warm_s)
        await reader.do("feed.ends", expected=warm.done)
        meter = stage.meter()
        posted = await caller.do("caller.flood", seconds=sizes.window_s)
        ended = await reader.do("feed.ends", expected=posted.done)
        spent_s = meter.spent_s()
        for share in SHARES:
            step(f"open loop, {share:.0%}")
            paced = await caller.do("caller.pace", per_s=max(1.0, posted.per_s * share), seconds=sizes.window_s)
            late[share] = await reader.do("feed.ends", expected=paced.done)
    found.read("tasks/s at saturation", posted.per_s, "/s")
    for name, process in (("node", "n1"), ("Redis", "redis")):
        found.read(f"CPU a task and its end, {name}", spent_s[process] * 1e6 / max(1, posted.done), "us")
    found.read("tasks without an end in the feed", ended.failed + sum(tally.failed for tally in late.values()), "")
    for share, tally in late.items():
        for name, part in PERCENTILES:
            found.read(f"POST -> feed {name} at {share:.0%}", tally.percentile_ms(part), "ms")
    found.charts.append(
        Chart(
            "POST -> result in the feed, by share of saturation", "ms", [f"{share:.0%}" for share in SHARES],
            {name: [late[share].percentile_ms(part) for share in SHARES] for name, part in PERCENTILES}, is_line=True,
        )
    )  # fmt: skip
    return found
