"""What happens in the demo, step by step; each step does what it tells, and is not over before it was seen.

Owns the plot; how processes are run, feeds followed and words told is the business of the other files. Rules:

- What is told was read from the feeds, from the API or from the process itself: nothing is told because it ought to be so.
- What does not come by its deadline is a Failed that says what was missing.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from cluster.client.api import Api
from cluster.client.outcome import ComeBack, Failed
from cluster.client.streams import Streams
from cluster.lab import calls
from cluster.lab.demo.account import Task, counting
from cluster.lab.demo.patience import until
from cluster.lab.demo.stage import START_S, Row, Stage
from cluster.lab.demo.voice import Voice
from cluster.lab.demo.watcher import Watcher

AGENTS = ("web-1", "web-2", "db-1")
_TRAVELLER, _ABSENT = "web-1", "web-2"  # whose node is killed; who goes away
_SEEN_S = 30.0  # for anything to be seen that takes a moment on a machine that has time for it
_CALL_S = 5.0
_AWAY_S = 2.0
_LINES_BEFORE_THE_KILL = 3
_QUIET_S = 1.5  # before the count: what came twice would come by then

Step = Callable[[], Awaitable[None]]


class Story:
    """One telling of it."""

    def __init__(self, stage: Stage, voice: Voice) -> None:
        self.place = ""  # the step that is under way
        self._stage = stage
        self._voice = voice
        self._run_id = secrets.token_hex(3)
        self._posted = 0
        self._rows: dict[str, Row] = {}
        self._api: Api
        self._watcher: Watcher

    async def play(self) -> None:
        """All steps. Raises: Failed at the first that does not come out as told."""
        await self._tell_step(1, "A cluster starts: a router, two nodes and a Redis, one process each", self._begin)
        settings = self._stage.settings()
        async with Watcher(await Streams.open(settings), settings, self._voice) as self._watcher:
            await self._tell_step(2, "Three agents come online (* is what the status feed says)", self._meet)
            await self._tell_step(3, "Tasks run on them (| and ! are the log feed, = is the result feed)", self._work)
            await self._tell_step(4, f"{_ABSENT} goes away, and gets a task meanwhile", self._go_away)
            await self._tell_step(5, f"A node dies under a task of {_TRAVELLER}", self._lose_node)
            await self._tell_step(6, "The count, from the feeds read anew", self._count)

    async def _tell_step(self, number: int, words: str, step: Step) -> None:
        self.place = f"step {number}"
        self._voice.step(f"{number}/6", words)
        await step()

    # ---- the steps

    async def _begin(self) -> None:
        rows = await self._stage.start_cluster()
        self._api = Api(self._stage.url, timeout_s=_CALL_S)
        self._rows = {row.name: row for row in rows}
        self._voice.tell(f"serves at {self._stage.url}")
        for row in rows:
            self._voice.more(f"{row.name:<6} pid {row.pid:<7} {row.address}")

    async def _meet(self) -> None:
        await asyncio.gather(*map(self._stage.start_agent, AGENTS))
        for name in AGENTS:
            await self._until_status(name, ["online"], START_S)
        for name in AGENTS:
            self._voice.more(f"{name} is held by {await self._node_of(name)}")

    async def _work(self) -> None:
        await self._carried_out(
            self._counting("web-1", "fetch", 4, 0.6),
            self._counting("web-1", "build", 3, 0.9),
            self._counting("web-2", "test", 5, 0.5),
            self._counting("db-1", "backup", 4, 0.7),
            self._task("db-1", "check", "echo index is broken >&2; sleep 0.5; exit 3", ("index is broken",), "failed"),
        )

    async def _go_away(self) -> None:
        pid = self._stage.kill_agent(_ABSENT)
        self._voice.tell(f"kill -9 {pid}: {_ABSENT} is dead")
        await self._until_status(_ABSENT, ["online", "offline"], _SEEN_S)
        task = self._counting(_ABSENT, "catch up", 3, 0.4)
        await self._post(task, "pending")
        await asyncio.sleep(_AWAY_S)
        await self._check_waits(task)
        await self._stage.start_agent(_ABSENT)
        self._voice.tell(f"{_ABSENT} is started again")
        await self._until_status(_ABSENT, ["online", "offline", "online"], START_S)
        await self._watcher.until_whole([task], _SEEN_S)

    async def _lose_node(self) -> None:
        task = self._counting(_TRAVELLER, "deploy", 12, 0.4)
        await self._post(task)
        lines = self._watcher.lines[task.id]
        await self._watcher.until(
            lambda: len(lines) >= _LINES_BEFORE_THE_KILL, _SEEN_S, f"line {_LINES_BEFORE_THE_KILL} of '{task.title}'"
        )
        node = await self._node_of(_TRAVELLER)
        held = [name for name in AGENTS if await self._node_of(name) == node]
        before = {name: self._stage.connects(name) for name in held}
        pid = self._stage.kill_node(node)
        self._voice.tell(f"kill -9 {pid}: {node} is dead, and held {' and '.join(held)}")
        for name in held:
            await self._until_back(name, before[name])
        await self._watcher.until_whole([task], _SEEN_S)
        await self._until_restarted(node, pid)
        await self._carried_out(*(self._task(name, "hello", "echo still here", ("still here",)) for name in AGENTS))

    async def _count(self) -> None:
        await asyncio.sleep(_QUIET_S)
        account = await self._watcher.account()
        if account.wrong:
            raise Failed("; ".join(account.wrong))
        self._voice.tell(f"tasks accepted  {account.accepted:>3}")
        self._voice.more(f"tasks ended     {account.ended:>3}   each exactly once")
        self._voice.more(f"log lines       {account.lines:>3}   each exactly once, in order")

    # ---- tasks

    def _counting(self, agent: str, title: str, steps: int, pause_s: float) -> Task:
        return counting(self._next_id(), agent, title, steps, pause_s)

    def _task(self, agent: str, title: str, script: str, lines: tuple[str, ...], status: str = "success") -> Task:
        return Task(self._next_id(), agent, title, script, lines, status)

    def _next_id(self) -> str:
        self._posted += 1
        return f"demo-{self._run_id}_1_0_{self._posted}"

    async def _carried_out(self, *tasks: Task) -> None:
        for task in tasks:
            await self._post(task)
        await self._watcher.until_whole(tasks, _SEEN_S)

    async def _post(self, task: Task, answer: str = "dispatched") -> None:
        """Raises: Failed when it is not accepted, or otherwise than expected."""
        self._watcher.expect(task)
        body = {"id": task.id, "name": task.title, "type": "script", "command": task.script}
        said = await self._call("POST", self._watcher.ids[task.agent], "tasks", body=body)
        if said["status"] != answer:
            raise Failed(f"'{task.title}' on {task.agent} was accepted as {said['status']}, and not {answer}")
        waits = ": accepted, and waits" if answer == "pending" else ""
        self._voice.tell(f"POST '{task.title}' to {task.agent}{waits}")

    async def _check_waits(self, task: Task) -> None:
        said = await self._call("GET", self._watcher.ids[task.agent], "tasks", task.id)
        if said["status"] != "pending" or self._watcher.lines[task.id] or self._watcher.ends[task.id]:
            raise Failed(f"'{task.title}' is {said['status']} while {task.agent} is away, and not pending")
        self._voice.tell(f"GET '{task.title}': still pending after {_AWAY_S:g} s, as {task.agent} is away")

    # ---- agents and nodes

    async def _until_status(self, name: str, statuses: list[str], within_s: float) -> None:
        seen = self._watcher.statuses[name]
        await self._watcher.until(lambda: seen == statuses, within_s, f"{name} {statuses[-1]} in the status feed")

    async def _node_of(self, name: str) -> str:
        return str((await self._call("GET", self._watcher.ids[name]))["node"])

    async def _until_back(self, name: str, connects_before: int) -> None:
        def is_back() -> bool:
            return self._stage.connects(name) > connects_before

        await until(is_back, _SEEN_S, f"{name} has not connected again")
        self._voice.tell(f"{name} has dialled again, and is held by {await self._node_of(name)}")

    async def _until_restarted(self, node: str, old_pid: int) -> None:
        admin = Api(self._rows[node].address.removeprefix("admin "), timeout_s=_CALL_S)

        async def is_ready() -> bool:
            if self._stage.nodes().get(node, old_pid) == old_pid:
                return False
            try:
                await calls.in_thread("readyz", partial(admin.get, "readyz"))
            except ComeBack:
                return False
            return True

        await until(is_ready, _SEEN_S, f"{node} does not serve again")
        self._voice.tell(f"{node} serves again, started anew as pid {self._stage.nodes()[node]}")

    async def _call(self, method: str, *parts: str, body: Mapping[str, object] | None = None) -> Any:
        """Raises: Failed."""
        call = partial(self._api.call, method, "api", "agents", *parts, body=body)
        return await calls.in_thread("call", call)
