"""What the parts cost alone, measured in the same run as the cluster: every figure is a ratio to one of these.

Knows how each limit is driven; the servers themselves are limit_*.py. A limit whose program is not installed is None, and is said to be
missing.
"""

import asyncio
import importlib.util
import shutil

from cluster.lab.bench.crew import fleet, worker
from cluster.lab.bench.meter import Meter
from cluster.lab.bench.redis_facts import facts_of
from cluster.lab.bench.stage import HOST, SECRET, Stage, bare_server, cpu_of_node, cpu_of_router
from cluster.lab.bench.tally import Tally

PICOWS = "cluster.lab.bench.limit_picows"
ASGI = "cluster.lab.bench.limit_asgi"
NO_REDIS = "node.bench_uplink"
_STREAM = "bench:xadd"
_PIPELINED = 64
_CLIENTS = 4


def has_picows() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("picows") is not None


async def message_us(module: str, agents: int, kind: str, seconds: float, warm_s: float) -> float | None:
    """CPU us a message and its ack, of a bare server: each agent has one under way. None when picows is not installed."""
    if module == PICOWS and not has_picows():
        return None
    async with bare_server(module) as server, fleet(agents, server.pid) as crowd:
        await crowd.grow(HOST, server.port, agents, registers=False)
        await crowd.flood(kind, warm_s)
        meter = server.meter()
        tally = await crowd.flood(kind, seconds)
        return meter.spent_s()["server"] * 1e6 / max(1, tally.done)


async def heartbeats_cpu(agents: int, every_s: float, seconds: float) -> float | None:
    """CPU us a second and agent, of a picows server that reads heartbeats; None when it is not installed."""
    if not has_picows():
        return None
    async with bare_server(PICOWS) as server, fleet(agents, server.pid) as crowd:
        await crowd.grow(HOST, server.port, agents, registers=False, at_once=256)
        meter = server.meter()
        await crowd.pace("heartbeat", agents / every_s, seconds)
        return meter.spent_s()["server"] * 1e6 / seconds / agents


async def request_us(connections: int, seconds: float, warm_s: float) -> float:
    """CPU us a POST, of a bare ASGI app under uvicorn, asked as the router is."""
    async with bare_server(ASGI, is_router=True) as server, worker(server.pid) as caller:
        await caller.do(
            "caller.open", host=HOST, port=server.port, secret=SECRET, ids=["bench"], connections=connections
        )
        await caller.do("caller.flood", seconds=warm_s)
        meter = server.meter()
        tally = await caller.do("caller.flood", seconds=seconds)
        return meter.spent_s()["server"] * 1e6 / max(1, tally.done)


async def ping_pong(stage: Stage, count: int, per_s: float = 0.0) -> Tally:
    """XADD -> XREAD from process to process, over the Redis of a stage, on the CPUs of router and node; latencies of one way."""
    async with worker() as one, worker() as other:
        router_cpu, node_cpu = cpu_of_router(), cpu_of_node()
        await other.do("redis.echo", url=stage.redis_url, cpu=node_cpu)
        await one.do("redis.serve", url=stage.redis_url, cpu=router_cpu, count=max(10, count // 10))
        return await one.do("redis.serve", url=stage.redis_url, cpu=router_cpu, count=count, per_s=per_s)


async def xadd_us(stage: Stage, entry: list[str], count: int) -> float:
    """CPU us of Redis for one XADD of this entry, pipelined; by redis-benchmark where there is one."""
    await _add(stage.redis_port, entry, count // 10)
    meter = Meter({"redis": stage.pids["redis"]})
    await _add(stage.redis_port, entry, count)
    spent_s = meter.spent_s()["redis"]
    async with facts_of(stage.redis_url) as redis:
        await redis.delete(_STREAM)
    return spent_s * 1e6 / count


def xadd_by() -> str:
    """What drives `xadd_us`, for people."""
    return "redis-benchmark" if shutil.which("redis-benchmark") else "a pipelined client of our own"


async def _add(port: int, entry: list[str], count: int) -> None:
    path = shutil.which("redis-benchmark")
    if path is None:
        await _add_by_hand(port, entry, count)
        return
    options = ("-p", port, "-n", count, "-c", _CLIENTS, "-P", _PIPELINED, "-q", "XADD", _STREAM, "*", *entry)
    running = await asyncio.create_subprocess_exec(
        path, *map(str, options), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await running.wait()


async def _add_by_hand(port: int, entry: list[str], count: int) -> None:
    one = _resp(["XADD", _STREAM, "*", *entry]) * _PIPELINED
    await asyncio.gather(*(_pipeline(port, one, count // _CLIENTS // _PIPELINED + 1) for _ in range(_CLIENTS)))


async def _pipeline(port: int, commands: bytes, times: int) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    for _ in range(times):
        writer.write(commands)
        for _ in range(_PIPELINED):
            await reader.readline()
            await reader.readline()
    writer.close()


def _resp(words: list[str]) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words]
    return b"".join(parts)
