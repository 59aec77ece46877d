"""The simulated control plane of one process: it posts tasks, signed, over connections that it keeps.

Owns the connections and the counting of answers. Rules: as in `agents`; a task's id carries the time at which it was due.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator

from cluster.lab.bench import pace, traffic
from cluster.lab.bench.http_link import HttpLink, request
from cluster.lab.bench.tally import Tally
from cluster.security import Signer

ANSWER_S = 30.0


class SimulatedCaller:
    """Calls go to the agents in turn."""

    def __init__(self) -> None:
        self._tasks = traffic.Tasks()
        self._signer = Signer("", 0.0)
        self._paths: list[str] = []
        self._size = 0
        self._turns: Iterator[int] = itertools.count()
        self._idle: deque[HttpLink] = deque()
        self._waiting: deque[int] = deque()  # when calls were due for which no connection is free
        self._under_way = 0
        self._ends_at = 0.0  # of a closed loop
        self._tally = Tally()

    # ---- to be called by orders

    async def open(self, host: str, port: int, secret: str, ids: list[str], connections: int, batch: int = 0) -> Tally:
        """Opens connections. `batch`: tasks a call; 0 = the call for a single one."""
        self.hang_up()
        self._signer = Signer(secret, 0.0)
        self._size = batch
        self._paths = [f"/api/agents/{agent_id}/tasks{'/batch' if batch else ''}" for agent_id in ids]
        self._turns = itertools.cycle(range(len(ids)))
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, link = await loop.create_connection(lambda: HttpLink(self._on_answer), host, port)
            self._idle.append(link)
        return Tally(done=connections)

    async def flood(self, seconds: float) -> Tally:
        """Each connection has one call under way, for so long."""
        self._tally, began = Tally(), time.monotonic()
        self._ends_at = began + seconds
        while self._idle:
            self._post(self._idle.popleft(), time.monotonic_ns())
        await asyncio.sleep(seconds)
        return await self._ended(began)

    async def pace(self, per_s: float, seconds: float) -> Tally:
        """Calls at a rate. Latencies run from when a call was due to its answer."""
        self._tally, self._ends_at, began = Tally(), 0.0, time.monotonic()
        await pace.at_rate(per_s, seconds, self._fire)
        return await self._ended(began)

    # ---- how it goes

    def _fire(self, due_ns: int) -> None:
        if self._idle:
            self._post(self._idle.popleft(), due_ns)
        else:
            self._waiting.append(due_ns)

    def _post(self, link: HttpLink, due_ns: int) -> None:
        place = next(self._turns)
        path = self._paths[place]
        body = self._tasks.batch(place, due_ns, self._size) if self._size else self._tasks.one(place, due_ns)
        now = str(int(time.time()))
        headers = f"X-Timestamp: {now}\r\nX-Signature: {self._signer.sign(now, 'POST', path, body)}\r\n"
        self._under_way += 1
        link.ask(request("POST", path, body, headers), due_ns)

    def _on_answer(self, link: HttpLink, status: int, _: bytes) -> None:
        self._under_way -= 1
        if status == 200:
            self._tally.done += 1
            self._tally.latencies_us.append((time.monotonic_ns() - link.due_ns) // 1000)
        else:
            self._tally.failed += 1
        if not link.is_open:
            return
        if self._waiting:
            self._post(link, self._waiting.popleft())
        elif time.monotonic() < self._ends_at:
            self._post(link, time.monotonic_ns())
        else:
            self._idle.append(link)

    async def _ended(self, began: float) -> Tally:
        deadline = time.monotonic() + ANSWER_S
        while (self._under_way or self._waiting) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        tally, self._tally = self._tally, Tally()
        tally.failed += self._under_way + len(self._waiting)
        tally.seconds = time.monotonic() - began
        return tally

    def hang_up(self) -> None:
        """Closes the connections."""
        while self._idle:
            self._idle.pop().transport.abort()
