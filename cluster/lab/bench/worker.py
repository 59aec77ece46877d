"""A process that makes load: `python -m cluster.lab.bench.worker --control-fd N`.

Takes orders, one line of JSON each, over the socket it was given, one after the other, and answers each with a tally. Knows no scenario,
and ends when its socket does. What it costs is never what is measured: where there is another CPU, it leaves that of the measured process
alone.
"""

import argparse
import asyncio
import gc
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop

from cluster.lab.bench.agents import SimulatedAgents
from cluster.lab.bench.caller import SimulatedCaller
from cluster.lab.bench.probe import Probe
from cluster.lab.bench.tally import Tally

MOST_LINE_BYTES = 1 << 28


class Order(msgspec.Struct):
    """What to do, and with what."""

    name: str
    given: dict[str, Any]


class Answer(msgspec.Struct):
    """What came of it; `error` when it could not be done."""

    tally: Tally = msgspec.field(default_factory=Tally)
    error: str = ""


def orders() -> dict[str, Callable[..., Awaitable[Tally]]]:
    """What this process can be told, but for what needs Redis."""
    agents, caller, probe = SimulatedAgents(), SimulatedCaller(), Probe()
    return {
        "agents.connect": agents.connect,
        "agents.storm": agents.storm,
        "agents.flood": agents.flood,
        "agents.pace": agents.pace,
        "agents.take_tasks": agents.take_tasks,
        "agents.arrivals": agents.arrivals,
        "agents.finish": agents.finish,
        "agents.close": agents.close,
        "caller.open": caller.open,
        "caller.flood": caller.flood,
        "caller.pace": caller.pace,
        "probe.watch": probe.watch,
    }


def orders_with_redis() -> dict[str, Callable[..., Awaitable[Tally]]]:
    """The others. Few processes are told them, and the driver takes longer to import than all the rest."""
    from cluster.lab.bench.feed_watch import FeedWatch  # noqa: PLC0415
    from cluster.lab.bench.ping_pong import PingPong  # noqa: PLC0415

    feed, redis = FeedWatch(), PingPong()
    return {
        "feed.begin": feed.begin,
        "feed.ends": feed.ends,
        "redis.echo": redis.echo,
        "redis.serve": redis.serve,
    }


async def serve(control: socket.socket) -> None:
    """Takes orders until nobody gives any."""
    reader, writer = await asyncio.open_connection(sock=control, limit=MOST_LINE_BYTES)
    known = orders()
    while line := await reader.readline():
        order = msgspec.json.decode(line, type=Order)
        try:
            if order.name not in known:
                known |= orders_with_redis()
            answer = Answer(await known[order.name](**order.given))
        except Exception as error:  # noqa: BLE001 - told to whoever gave the order
            answer = Answer(error=f"{type(error).__name__}: {error}")
        writer.write(msgspec.json.encode(answer) + b"\n")
        await writer.drain()


def _stay_apart(pid: int) -> None:
    """Leaves the CPU of a process that stays on one, if there are others."""
    if pid and hasattr(os, "sched_setaffinity"):
        others = os.sched_getaffinity(0) - os.sched_getaffinity(pid)
        os.sched_setaffinity(0, others or os.sched_getaffinity(0))


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--apart-from", type=int, default=0, help="the process whose CPU is left to it; 0 = none")
    given = parser.parse_args()
    _stay_apart(given.apart_from)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    gc.set_threshold(100_000, 50, 100)
    sys.setswitchinterval(0.0005)  # the thread that keeps the time is not to wait for the others
    uvloop.run(serve(socket.socket(fileno=given.control_fd)))


if __name__ == "__main__":
    main()
