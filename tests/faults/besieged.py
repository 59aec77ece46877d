"""A cluster under attack: what its processes hold, what they cry, and an agent beside the attackers whose work must go on.

Owns the cluster, its one node and the witness. What the attack is, and how much a process may hold of it, is the test's.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tests.contract.gateway import Agent, Gateway, new_task_id
from tests.support.cluster_process import ClusterProcess
from tests.support.eventually import eventually

PATIENCE_S = 5.0  # of the witness: a busy machine is slow, a node that serves nobody but its attackers is slower
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


def memory_bytes(pid: int) -> int:
    """What it holds now. Raises: OSError when it is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def descriptors(pid: int) -> int:
    """How many it holds now, but for Unix sockets: its connections to Redis, of which a pool keeps as many as were needed once."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            links.append(str(link.readlink()))
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    pool = {f"socket:[{row[6]}]" for row in rows}
    return sum(link not in pool for link in links)


class Besieged:
    """The cluster. Use as a context manager."""

    def __init__(self, folder: Path, config: Mapping[str, Mapping[str, Any]]) -> None:
        self.cluster = ClusterProcess(folder, nodes=1, config={"logging": {"level": "warn"}, **config})
        self.gateway = Gateway(self.cluster)
        self._pids: dict[str, int] = {}
        self.grown_mib: dict[str, int] = {}  # at the most, in the last attack

    @property
    def port(self) -> int:
        return self.cluster.port

    def memory_bytes(self) -> dict[str, int]:
        """What each of the processes that answer peers holds."""
        return {name: memory_bytes(pid) for name, pid in self._pids.items()}

    def descriptors(self) -> dict[str, int]:
        """The same of descriptors."""
        return {name: descriptors(pid) for name, pid in self._pids.items()}

    def _found(self) -> dict[str, int]:
        return {**self.cluster.nodes(), **self.cluster.routers()}

    @asynccontextmanager
    async def unharmed(self, growth_mib: int, *, within_s: float = 25.0) -> AsyncIterator["Witness"]:
        """Watches an attack: afterwards nothing is left of it. Raises: AssertionError with what is, or what went wrong meanwhile."""
        before, before_bytes = self.descriptors(), self.memory_bytes()
        async with Witness(self.gateway) as witness, Peaks(self) as peaks:
            yield witness
            await witness.has_worked()
        await eventually(lambda: self._left(before), within_s, every_s=0.2)
        self.grown_mib = {name: (peaks.most_bytes[name] - size) // MIB for name, size in before_bytes.items()}
        assert max(self.grown_mib.values()) <= growth_mib, f"grew by {self.grown_mib} MiB"
        assert self._found() == self._pids, "the same processes answer"
        assert not self.cries()

    def _left(self, before: Mapping[str, int]) -> list[str]:
        """Descriptors that were not there before."""
        return [
            f"{name} holds {count} descriptors, not {before[name]}"
            for name, count in self.descriptors().items()
            if count > before[name]
        ]

    def cries(self) -> list[str]:
        """What the processes said that only a mistake of theirs makes them say."""
        said = self.cluster.stderr.read_text(errors="replace").splitlines()
        words = ("Traceback", '"log.level":"error"', "CRITICAL", "was never")
        return [line[:1000] for line in said if any(word in line for word in words)]

    async def __aenter__(self) -> Self:
        await self.cluster.__aenter__()
        await self.cluster.wait_ready(60.0)
        self._pids = self._found()
        async with Witness(self.gateway) as witness:  # what a process makes once is there from now on
            await witness.has_worked()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.__aexit__()
        await self.cluster.__aexit__()


class Peaks:
    """The most that each process held meanwhile."""

    def __init__(self, besieged: Besieged) -> None:
        self._besieged = besieged
        self.most_bytes: dict[str, int] = {}

    def _look(self) -> None:
        for name, size in self._besieged.memory_bytes().items():
            self.most_bytes[name] = max(self.most_bytes.get(name, 0), size)

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(0.05)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch(), name="watch memory")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self._look()


class Witness:
    """An agent that gets a task, works and answers, again and again."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.rounds = 0
        self.slowest_s = 0.0

    async def has_worked(self) -> None:
        """Wait for two more rounds. Raises: what went wrong in any of them."""
        wanted = self.rounds + 2
        await eventually(lambda: self.rounds < wanted and not self._task.done(), 4 * PATIENCE_S)
        if self._task.done():
            self._task.result()

    async def _work(self, agent: Agent) -> None:
        while True:
            began_s = time.monotonic()
            async with asyncio.timeout(PATIENCE_S):
                task_id = new_task_id()
                await agent.post_and_take({"id": task_id})
                await agent.end(task_id)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            self.rounds += 1
            await asyncio.sleep(0.05)

    async def __aenter__(self) -> Self:
        self._agent = await self._gateway.agent()
        self._task = asyncio.create_task(self._work(self._agent), name="witness")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task
        self._agent.socket.transport.abort()
