"""`dispatch`: a task from its POST to its agent: what it costs at saturation, how long it takes below it (open loop). Ends are `roundtrip`'s."""

from cluster.lab.bench import limits
from cluster.lab.bench.crew import Fleet, Worker, fleet, worker
from cluster.lab.bench.findings import Chart, Findings
from cluster.lab.bench.sizes import Sizes
from cluster.lab.bench.stage import HOST, SECRET, Stage, cluster_of
from cluster.lab.bench.steps import Step
from cluster.lab.bench.tally import Tally

SHARES = (0.1, 0.5, 0.8)
PERCENTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
STEPS = 6 + len(SHARES)


async def run(sizes: Sizes, step: Step) -> Findings:
    """Measures it."""
    found = Findings("dispatch")
    step("bare ASGI")
    before_us = await limits.request_us(sizes.calls, sizes.window_s, sizes.warm_s)
    async with (
        cluster_of(1) as stage,
        fleet(sizes.receivers, stage.pids["r1"]) as crowd,
        worker(stage.pids["r1"]) as caller,
    ):
        step("XADD -> XREAD alone")
        hot = await limits.ping_pong(stage, sizes.pings)
        step("connecting")
        connected = await crowd.grow(HOST, stage.port, sizes.receivers)
        await crowd.take_tasks(answers=False)
        await opened(caller, stage, connected.ids, sizes.calls)
        step("saturation")
        full = await _saturated(found, stage, crowd, caller, sizes)
        step("XADD -> XREAD alone, at the lowest rate")
        seldom_per_s = max(1.0, full.per_s * SHARES[0])
        alone = await limits.ping_pong(stage, max(10, int(seldom_per_s * sizes.window_s)), seldom_per_s)
        late: dict[float, Tally] = {}
        for share in SHARES:
            step(f"open loop, {share:.0%}")
            late[share] = await _paced(crowd, caller, full.per_s * share, sizes.window_s)
    step("bare ASGI, once more")
    bare = (before_us + await limits.request_us(sizes.calls, sizes.window_s, sizes.warm_s)) / 2
    found.read("CPU a request, bare ASGI", bare, "us")
    found.read("XADD -> XREAD p50, one after the other", hot.percentile_ms(0.5), "ms")
    found.read(f"XADD -> XREAD p50 at {SHARES[0]:.0%}", alone.percentile_ms(0.5), "ms")
    for share, tally in late.items():
        found.read(f"tasks lost at {share:.0%}", tally.failed, "")
        for name, part in PERCENTILES:
            found.read(f"POST -> agent {name} at {share:.0%}", tally.percentile_ms(part), "ms")
    found.figure("post", found.value("CPU a POST, router"), bare)
    found.figure("dispatch", late[SHARES[0]].percentile_ms(0.5) * 1000, alone.percentile_ms(0.5) * 1000)
    found.charts.append(
        Chart(
            "POST -> agent, by share of saturation", "ms", [f"{share:.0%}" for share in SHARES],
            {name: [late[share].percentile_ms(part) for share in SHARES] for name, part in PERCENTILES}, is_line=True,
        )
    )  # fmt: skip
    return found


async def opened(caller: Worker, stage: Stage, ids: list[str], connections: int, batch: int = 0) -> None:
    """The control plane's connections to a stage."""
    await caller.do(
        "caller.open", host=HOST, port=stage.port, secret=SECRET, ids=ids, connections=connections, batch=batch
    )


async def _saturated(found: Findings, stage: Stage, crowd: Fleet, caller: Worker, sizes: Sizes) -> Tally:
    warm = await caller.do("caller.flood", seconds=sizes.warm_s)
    await crowd.arrivals(warm.done)
    meter = stage.meter()
    tally = await caller.do("caller.flood", seconds=sizes.window_s)
    spent_s = meter.spent_s()
    arrived = await crowd.arrivals(tally.done)
    done = max(1, tally.done)
    found.read("tasks/s at saturation", tally.per_s, "/s")
    found.read("CPU a POST, router", spent_s["r1"] * 1e6 / done, "us")
    found.read("CPU a task, node", spent_s["n1"] * 1e6 / done, "us")
    found.read("CPU a task, Redis", spent_s["redis"] * 1e6 / done, "us")
    found.read("POSTs refused at saturation", tally.failed, "")
    found.read("tasks lost at saturation", arrived.failed, "")
    return tally


async def _paced(crowd: Fleet, caller: Worker, per_s: float, seconds: float) -> Tally:
    posted = await caller.do("caller.pace", per_s=max(1.0, per_s), seconds=seconds)
    return await crowd.arrivals(posted.done)
