"""The simulated agents of one process: they register, connect, and say what they are told to say.

Owns the connections and the counting of answers. Rules: closed loops (`flood`) are for what things cost, open ones (`pace`) for how late
they are. Agents come from several loopback addresses: one has 28,000 ports, and a server may hold off too many newcomers of one address.
"""

import asyncio
import collections
import random
import re
import time
from collections.abc import Callable, Iterator

import msgspec

from cluster.lab.bench import pace, traffic
from cluster.lab.bench.agent_link import AgentLink, upgrade
from cluster.lab.bench.http_link import Asker, request
from cluster.lab.bench.tally import Tally

AGENTS_AN_ADDRESS = 5000
ANSWER_S = 30.0  # what is not acknowledged by then has failed
RETRY_S = 1.0
_TASK_IDS = re.compile(rb'"id":"([^"]+)"')
_PATH = "/api/agents/register"


class SimulatedAgents:
    """Numbers `first` to `first + count - 1`. Nobody else has their tokens."""

    def __init__(self) -> None:
        self._links: dict[int, AgentLink] = {}
        self._ids: dict[int, str] = {}
        self._tag = random.getrandbits(32)
        self._says = traffic.Agents(self._tag)
        self._make: traffic.Maker | None = None  # what answers an ack, in a closed loop
        self._acked = 0
        self._latencies_us: list[int] = []
        self._answers_tasks = False
        self._held: list[tuple[AgentLink, bytes]] = []  # tasks that were not answered yet
        self.lost = 0

    # ---- to be called by orders

    async def connect(
        self, host: str, port: int, first: int, count: int, *, registers: bool = True, at_once: int = 64
    ) -> Tally:
        """Connects agents, some at a time; who was refused tries again. Latencies are those of handshakes."""
        tally, began = Tally(), time.monotonic()
        todo = collections.deque(range(first, first + count))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, count)):
                group.create_task(self._connect_all(host, port, todo, tally, registers=registers), name="connect")
        tally.seconds = time.monotonic() - began
        tally.ids = [self._ids[number] for number in range(first, first + count)]
        return tally

    async def storm(self, host: str, port: int, at_once: int) -> Tally:
        """All connections are reset, and all agents come back at once. Latencies run from the reset to the open connection."""
        numbers = list(self._links)
        for link in list(self._links.values()):
            link.transport.abort()
        began_ns = time.monotonic_ns()
        tally = Tally()
        todo = collections.deque(numbers)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(numbers))):
                group.create_task(self._return_all(host, port, todo, tally, began_ns), name="return")
        tally.seconds = (time.monotonic_ns() - began_ns) / 1e9
        return tally

    async def flood(self, kind: str, seconds: float, window: int = 1, lines: int = 1) -> Tally:
        """Each agent has `window` messages under way, for so long. Counts what was acknowledged."""
        self._make = self._says.maker(kind, lines)
        self._acked = 0
        began = time.monotonic()
        for link in self._links.values():
            self._say(link, window)
        await asyncio.sleep(seconds)
        self._make = None
        failed = await self._answered()
        return Tally(done=self._acked, failed=failed, seconds=time.monotonic() - began)

    async def pace(self, kind: str, per_s: float, seconds: float, heartbeats_per_s: float = 0.0) -> Tally:
        """Messages at a rate, spread evenly over the agents. Latencies run from when a message was due to its ack.

        `heartbeats_per_s`: sent beside, and not counted.
        """
        make, turns = self._says.maker(kind), self._turns()
        self._acked, self._latencies_us = 0, []
        has_acks = kind != "heartbeat"

        def fire(due_ns: int) -> None:
            link = next(turns)
            link.transport.write(make(link.number))
            if has_acks:
                link.outstanding += 1
                link.due.append(due_ns)

        began = time.monotonic()
        sent, _ = await asyncio.gather(
            pace.at_rate(per_s, seconds, fire), pace.at_rate(heartbeats_per_s, seconds, self._beat())
        )
        failed = await self._answered()
        done = self._acked if has_acks else sent
        return Tally(done, failed, time.monotonic() - began, self._latencies_us)

    async def take_tasks(self, *, answers: bool) -> Tally:
        """From here on tasks are counted, and answered with their end where that is wanted."""
        self._answers_tasks = answers
        self._latencies_us, self._acked = [], 0
        return Tally()

    async def arrivals(self, expected: int) -> Tally:
        """The tasks that came since the last time, once so many are there; latencies run from when they were due to be posted."""
        deadline = time.monotonic() + ANSWER_S
        while len(self._latencies_us) < expected and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        came, self._latencies_us = self._latencies_us, []
        return Tally(done=len(came), failed=max(0, expected - len(came)), latencies_us=came)

    async def finish(self) -> Tally:
        """Ends the tasks that came and were not answered, and waits for the acks."""
        held, self._held = self._held, []
        for link, task_id in held:
            link.outstanding += 1
            link.transport.write(self._says.end_of(task_id))
        return Tally(done=len(held), failed=await self._answered())

    async def close(self) -> Tally:
        """Drops all connections."""
        for link in list(self._links.values()):
            link.transport.abort()
        return Tally(done=len(self._links))

    # ---- connecting

    async def _connect_all(
        self, host: str, port: int, todo: collections.deque[int], tally: Tally, *, registers: bool
    ) -> None:
        askers: dict[str, Asker] = {}
        while todo:
            number = todo.popleft()
            if registers:
                source = _source_of(number)
                asker = askers.setdefault(source, Asker(host, port, source))
                while not await self._register(asker, number):
                    tally.failed += 1
                    await asyncio.sleep(RETRY_S)
            began_ns = time.monotonic_ns()
            await self._until_open(host, port, number, tally)
            tally.latencies_us.append((time.monotonic_ns() - began_ns) // 1000)
            tally.done += 1
        for asker in askers.values():
            asker.close()

    async def _register(self, asker: Asker, number: int) -> bool:
        body = msgspec.json.encode(
            {
                "name": f"bench-{number}",
                "token": self._token(number),
                "labels": {"role": "bench"},
                "host_id": traffic.host_of(number),
                "system": {"hostname": f"host-{number}", "os": "linux", "arch": "amd64"},
            }
        )
        try:
            status, answer = await asker.ask(request("POST", _PATH, body))
        except OSError:
            return False
        if status == 200:
            self._ids[number] = msgspec.json.decode(answer)["id"]
        return status == 200

    async def _return_all(
        self, host: str, port: int, todo: collections.deque[int], tally: Tally, began_ns: int
    ) -> None:
        while todo:
            await self._until_open(host, port, todo.popleft(), tally)
            tally.latencies_us.append((time.monotonic_ns() - began_ns) // 1000)
            tally.done += 1

    async def _until_open(self, host: str, port: int, number: int, tally: Tally) -> None:
        while await self._dial(host, port, number) != 101:
            tally.failed += 1
            await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))

    async def _dial(self, host: str, port: int, number: int) -> int:
        """The status of a handshake; 0 when there was none."""
        agent_id = self._ids.setdefault(number, f"bench-{number}")
        link = AgentLink(number, self, upgrade(f"{host}:{port}", agent_id, self._token(number)))
        try:
            async with asyncio.timeout(10.0):  # as the real agent
                await asyncio.get_running_loop().create_connection(
                    lambda: link, host, port, local_addr=(_source_of(number), 0)
                )
                status = await link.opened
        except (OSError, TimeoutError):
            return 0
        if status == 101:
            self._links[number] = link
        return status

    def _token(self, number: int) -> str:
        return f"bench-{self._tag:08x}-{number:08d}-0123456789abcdef0123456789abcdef"

    # ---- talking

    def _beat(self) -> Callable[[int], None]:
        """Says that the next agent lives."""
        turns, frame = self._turns(), self._says.maker("heartbeat")(0)
        return lambda _: next(turns).transport.write(frame)

    def _turns(self) -> Iterator[AgentLink]:
        links = list(self._links.values())
        random.shuffle(links)
        while True:
            yield from (link for link in links if link.is_open)

    def _say(self, link: AgentLink, count: int) -> None:
        make = self._make
        if make is not None and link.is_open:
            link.outstanding += count
            number = link.number
            link.transport.write(make(number) if count == 1 else b"".join([make(number) for _ in range(count)]))

    async def _answered(self) -> int:
        """Waits for all acks; how many are missing."""
        deadline = time.monotonic() + ANSWER_S
        while (missing := sum(link.outstanding for link in self._links.values())) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for link in self._links.values():
            link.outstanding = 0
            link.due.clear()
        return missing

    # ---- the links' calls

    def on_acks(self, link: AgentLink, count: int) -> None:
        """Goes on in a closed loop, takes the time in an open one."""
        self._acked += count
        link.outstanding -= count
        if link.due:
            now_ns = time.monotonic_ns()
            for _ in range(min(count, len(link.due))):
                self._latencies_us.append((now_ns - link.due.popleft()) // 1000)
        elif self._make is not None:
            self._say(link, count)

    def on_task(self, link: AgentLink, payload: bytes) -> None:
        """Takes the time, and does the task in none."""
        task_ids = _TASK_IDS.findall(payload)
        self._latencies_us += map(traffic.late_us, task_ids)
        if self._answers_tasks:
            link.outstanding += len(task_ids)
            link.transport.write(b"".join(map(self._says.end_of, task_ids)))
        else:
            self._held += ((link, task_id) for task_id in task_ids)

    def on_lost(self, link: AgentLink) -> None:
        """A connection that nobody replaced is gone."""
        if self._links.get(link.number) is link:
            del self._links[link.number]
            self.lost += 1


def _source_of(number: int) -> str:
    return f"127.0.0.{2 + number // AGENTS_AN_ADDRESS}"
