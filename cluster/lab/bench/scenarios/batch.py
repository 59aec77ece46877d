"""`batch`: tasks through the batch call, 100 at a time; and what Redis keeps of a task: open, ended, and of a message not to be written twice."""

from cluster.lab.bench import limits
from cluster.lab.bench.crew import Fleet, Worker, fleet, worker
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.redis_facts import RedisFacts, facts_of
from cluster.lab.bench.scenarios.dispatch import opened
from cluster.lab.bench.scenarios.results import FEED
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, Stage, cluster_of
from cluster.lab.bench.steps import Step

STEPS = 5
TASKS = 100
CALLS = 8  # connections; each has a hundred tasks under way
_IDS_A_RESULT = 2  # the message's and the task's


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("batch")
    step("bare ASGI")
    before_us = await limits.request_us(sizes.calls, sizes.window_s, sizes.warm_s)
    async with (
        cluster_of(1) as stage,
        fleet(sizes.receivers, stage.pids["r1"]) as crowd,
        worker(stage.pids["r1"]) as caller,
        facts_of(stage.redis_url) as redis,
    ):
        step("connecting")
        connected = await crowd.grow(HOST, stage.port, sizes.receivers)
        await opened(caller, stage, connected.ids, CALLS, TASKS)
        step("memory of tasks")
        await _memory(found, redis, crowd, caller, sizes)
        step("saturation")
        await _saturated(found, stage, crowd, caller, sizes)
    step("bare ASGI, once more")
    bare = (before_us + await limits.request_us(sizes.calls, sizes.window_s, sizes.warm_s)) / 2
    found.read("CPU a request, bare ASGI", bare, "us")
    found.figure("batch", found.value("CPU a task, router"), bare)
    found.charts.append(
        Chart(
            "What Redis keeps", "B", ["an open task", "an ended task", "its entry in the feed", "its dedupe"],
            {"bytes": [found.value(name) for name in ("Redis memory an open task", "Redis memory an ended task", "Redis memory an entry of the results feed",
             "Redis memory a deduplicated result")]},
        )
    )  # fmt: skip
    return found


async def _memory(found: Findings, redis: RedisFacts, crowd: Fleet, caller: Worker, sizes: Sizes) -> None:
    await crowd.take_tasks(answers=False)
    before = await redis.memory_bytes()
    calls = max(1, sizes.open_tasks // TASKS)
    posted = await caller.do("caller.pace", per_s=50.0, seconds=calls / 50.0)
    tasks = max(1, posted.done * TASKS)
    await crowd.arrivals(tasks)
    opened_bytes = await redis.memory_bytes() - before
    await crowd.finish()
    feed = await redis.usage_bytes(FEED)
    seen = await redis.usage_bytes(f"*{FEED}*seen*")
    ended_bytes = await redis.memory_bytes() - before - feed - seen
    found.figure("redis_open", found.read("Redis memory an open task", opened_bytes / tasks, "B"))
    found.figure("redis_ended", found.read("Redis memory an ended task", ended_bytes / tasks, "B"))
    found.read("Redis memory an entry of the results feed", feed / max(1, await redis.length(FEED)), "B")
    found.read("Redis memory a deduplicated result", seen / tasks, "B")
    found.figure("redis_dedupe", seen / tasks / _IDS_A_RESULT)


async def _saturated(found: Findings, stage: Stage, crowd: Fleet, caller: Worker, sizes: Sizes) -> None:
    await crowd.take_tasks(answers=False)  # their ends are other scenarios'
    warm = await caller.do("caller.flood", seconds=sizes.warm_s)
    await crowd.arrivals(warm.done * TASKS)
    meter = stage.meter()
    tally = await caller.do("caller.flood", seconds=sizes.window_s)
    spent_s = meter.spent_s()
    arrived = await crowd.arrivals(tally.done * TASKS)
    tasks = max(1, tally.done * TASKS)
    found.read("tasks/s at saturation", tasks / tally.seconds, "/s")
    found.read("CPU a task, router", spent_s["r1"] * 1e6 / tasks, "us")
    found.read("CPU a task, node, while calls are answered", spent_s["n1"] * 1e6 / tasks, "us")
    found.read("CPU a task, Redis, while calls are answered", spent_s["redis"] * 1e6 / tasks, "us")
    found.read("calls refused", tally.failed, "")
    found.read("tasks lost", arrived.failed, "")
