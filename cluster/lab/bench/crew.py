"""The processes that make load, seen from the one that measures: they are given orders, and answer with tallies.

Owns their lives: they end with the block that made them, and die with this process.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import msgspec

from cluster import programs
from cluster.errors import StartError
from cluster.lab.bench.tally import Tally, together
from cluster.lab.bench.worker import MOST_LINE_BYTES, Answer, Order
from cluster.process import Program, spawn

AGENTS_A_WORKER = 9000  # a process may have 20,000 files open, and nobody is to wait for a loop that is too busy
_STOP_S = 2.0


class Worker:
    """One process that makes load."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def do(self, order: str, **given: object) -> Tally:
        """Gives an order and waits for what came of it. Raises: StartError when it could not be done."""
        self._writer.write(msgspec.json.encode(Order(order, given)) + b"\n")
        line = await self._reader.readline()
        if not line:
            raise StartError(f"{order}: the process that makes load has ended")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise StartError(f"{order}: {answer.error}")
        return answer.tally


@contextlib.asynccontextmanager
async def worker(apart_from: int = 0) -> AsyncIterator[Worker]:
    """A process that makes load, for as long as the block runs. `apart_from`: the process that is measured; its CPU is left to it."""
    ours, theirs = socket.socketpair()
    try:
        command = (*programs.module_command("cluster.lab.bench.worker"), "--control-fd", str(theirs.fileno()))
        command += ("--apart-from", str(apart_from))
        environ = programs.child_environ(os.environ, {})
        process = await spawn(Program("load", command, environ, (theirs.fileno(),)), tells_ready=False)
    finally:
        theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours, limit=MOST_LINE_BYTES)
    try:
        yield Worker(reader, writer)
    finally:
        writer.close()
        await process.stop(_STOP_S)


class Fleet:
    """Simulated agents, in as many processes as they need. Numbers begin with 0."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers
        self._counts = [0] * len(workers)

    @property
    def count(self) -> int:
        """How many agents were connected."""
        return sum(self._counts)

    async def grow(self, host: str, port: int, count: int, *, registers: bool = True, at_once: int = 64) -> Tally:
        """Connects agents until there are so many."""
        more = max(0, count - self.count)
        shares = [
            more // len(self._workers) + (place < more % len(self._workers)) for place in range(len(self._workers))
        ]
        calls, first = [], self.count
        for place, share in enumerate(shares):
            if share:
                calls.append(
                    self._workers[place].do(
                        "agents.connect", host=host, port=port, first=first, count=share, registers=registers,
                        at_once=max(1, at_once // len(self._workers)),
                    )
                )  # fmt: skip
            self._counts[place] += share
            first += share
        return together(await asyncio.gather(*calls))

    async def flood(self, kind: str, seconds: float, *, window: int = 1, lines: int = 1) -> Tally:
        """See SimulatedAgents.flood."""
        return await self._all("agents.flood", kind=kind, seconds=seconds, window=window, lines=lines)

    async def pace(self, kind: str, per_s: float, seconds: float, *, heartbeats_per_s: float = 0.0) -> Tally:
        """See SimulatedAgents.pace. The rates are those of all together."""
        shares = [count / self.count for count in self._counts]
        calls = [
            worker.do(
                "agents.pace", kind=kind, per_s=per_s * share, seconds=seconds, heartbeats_per_s=heartbeats_per_s * share
            )
            for worker, share in zip(self._workers, shares, strict=True)
            if share
        ]  # fmt: skip
        return together(await asyncio.gather(*calls))

    async def storm(self, host: str, port: int, at_once: int) -> Tally:
        """See SimulatedAgents.storm."""
        return await self._all("agents.storm", host=host, port=port, at_once=at_once // len(self._workers))

    async def take_tasks(self, *, answers: bool) -> None:
        """See SimulatedAgents.take_tasks."""
        await self._all("agents.take_tasks", answers=answers)

    async def arrivals(self, expected: int) -> Tally:
        """See SimulatedAgents.arrivals. For a fleet of one process."""
        return await self._workers[0].do("agents.arrivals", expected=expected)

    async def finish(self) -> None:
        """See SimulatedAgents.finish."""
        await self._all("agents.finish")

    async def close(self) -> None:
        """Drops all connections."""
        await self._all("agents.close")

    async def _all(self, order: str, **given: object) -> Tally:
        return together(await asyncio.gather(*(worker.do(order, **given) for worker in self._workers)))


@contextlib.asynccontextmanager
async def fleet(agents: int, apart_from: int = 0) -> AsyncIterator[Fleet]:
    """Room for so many agents, none of which is connected yet. `apart_from`: see `worker`."""
    async with contextlib.AsyncExitStack() as stack:
        count = -(-agents // AGENTS_A_WORKER)
        yield Fleet([await stack.enter_async_context(worker(apart_from)) for _ in range(count)])
