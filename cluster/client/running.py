"""One command on one agent or on many: posted, followed line by line, and ended with an exit code.

Owns what a run waits for and when it gives up; knows the HTTP API, the feeds and the screen by what they offer. Rules:

- Log lines and results come from the feeds. Without them, or when a result does not come, the API is asked how a task stands.
- A post that got no answer is repeated with the same bytes, which changes nothing.
- Ctrl-C and the time limit cancel what is open and wait for its end; a second Ctrl-C leaves it.
- Redis or the server may be away for a while: nothing is lost by it. After `LOST_S` without a word from either, the run gives up.
"""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cluster.client.agents import Agent, told_apart
from cluster.client.api import Api
from cluster.client.outcome import FAILED, INTERRUPTED, OK, PARTLY, TIMEOUT, ComeBack, Failed, NotFound
from cluster.client.screen import Screen, prefixes
from cluster.client.streams import Entry, Streams
from cluster.client.tables import shown

ENDS = frozenset(("success", "failed", "cancelled"))
TIMED_OUT = "1004"  # an error code
POSTS = 3  # attempts
LATE_S = 15.0  # behind the task's own time limit
CANCEL_S = 10.0  # for the ends of what was cancelled
LOST_S = 60.0
ASK_S, ASK_ALONE_S = 5.0, 1.0  # between questions to the API, with and without the feeds
QUIET_MS = 300  # after the last end: log lines come by another way than results
LINES_S = 3.0
NAMED = 5  # agents that a summary names

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class End:
    """How a task ended."""

    status: str
    exit_code: int = 1
    error_msg: str = ""
    error_code: str = "0"
    log_size: int = 0

    @property
    def exit(self) -> int:
        """The exit code that stands for it."""
        if self.status == "success":
            return OK
        if self.error_code == TIMED_OUT:
            return TIMEOUT
        return self.exit_code if self.status == "failed" and 0 < self.exit_code < 256 else FAILED

    @property
    def words(self) -> str:
        """For people, on one line."""
        how = "timed out" if self.exit == TIMEOUT else self.status
        code = f", exit code {self.exit_code}" if self.status == "failed" and self.error_code == "0" else ""
        said = shown(self.error_msg)
        return f"{how}{code}" + (f": {said}" if said not in {"", self.status, f"exit status {self.exit_code}"} else "")


def end_of(fields: Mapping[str, str]) -> End:
    """The end that an entry of the results feed tells."""
    code, size = (_whole(fields.get(name, "")) for name in ("exit_code", "log_size"))
    return End(fields["status"], code, fields.get("error_msg", ""), fields.get("error_code", "0"), size)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


@dataclass
class Job:
    """One agent's part of a run."""

    agent: Agent
    task_id: str
    end: End | None = None
    is_posted: bool = False
    asked_ended: bool = False  # the API has said so; its entry may be on its way
    log_bytes: int = 0


class Feeds:
    """The names of the feeds of lines and of results; "" = not kept."""

    def __init__(self, logs: str, results: str) -> None:
        self.logs, self.results = logs, results


class Run:
    """A command on its way."""

    def __init__(
        self,
        api: Api,
        streams: Streams | None,
        feeds: Feeds,
        screen: Screen,
        jobs: Sequence[Job],
        spec: Mapping[str, Any],
        *,
        as_json: bool = False,
    ) -> None:
        """`spec`: the task, without its id. `streams` is None where the feeds cannot be read."""
        self._api = api
        self._streams = streams
        self._feeds = feeds
        self._screen = screen
        self._jobs = {job.task_id: job for job in jobs}
        self._spec = spec
        self._as_json = as_json
        self._names = told_apart(job.agent for job in jobs)
        self._prefixes = prefixes(self._names) if len(jobs) > 1 else {}
        self._over = asyncio.Event()
        self._stop = asyncio.Event()
        self._leave = asyncio.Event()
        self._is_done = False
        self._heard_s = time.monotonic()

    # ---- the whole of it

    async def post(self) -> None:
        """Posts the tasks. Raises: Failed, when there is but one and it is not taken."""
        await asyncio.gather(*map(self._post, self._jobs.values()))

    async def follow(self) -> int:
        """Posts the tasks and stays until they have ended; the exit code. Raises: Failed."""
        self._listen_to_signals()
        if self._streams:
            for feed in filter(None, (self._feeds.logs, self._feeds.results)):
                await self._streams.last(feed, 0)
        await self.post()
        watchers = [asyncio.create_task(self._ask(), name="ask the server")]
        if self._streams:
            watchers.append(asyncio.create_task(self._read(self._streams), name="read the feeds"))
        try:
            late = await self._until_over(watchers)
        finally:
            self._is_done = True
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            self._screen.finish()
        await self._last_lines()
        return self._summed_up(late=late)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        (self._leave if self._stop.is_set() else self._stop).set()

    async def _until_over(self, watchers: Sequence[asyncio.Task[None]]) -> bool:
        """Whether it was the time limit that ended the run."""
        limit_s = self._spec.get("timeout_sec")
        patience_s = limit_s + LATE_S if limit_s else None
        self._check_over()
        await _first((self._over.wait(), self._stop.wait()), watchers, patience_s)
        if self._over.is_set():
            return False
        why = "interrupted" if self._stop.is_set() else f"no result {LATE_S:g} s after the time limit"
        self._screen.say(f"{why}: cancelling {_counted(len(self._open()), 'task')}")
        self._screen.finish()
        is_late = not self._stop.is_set()
        self._stop.set()
        await _first((self._cancelled(), self._leave.wait()), watchers, CANCEL_S)
        return is_late

    def _open(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.end is None]

    def _check_over(self) -> None:
        done = [job.end for job in self._jobs.values() if job.end]
        self._screen.progress(len(done), sum(end.status != "success" for end in done))
        if len(done) == len(self._jobs):
            self._over.set()

    # ---- asking

    async def _post(self, job: Job) -> None:
        try:
            said = await self._insist(job)
        except Failed as error:
            if len(self._jobs) == 1:
                raise
            self._ended(job, End("failed", -1, str(error), "-1"))
            return
        job.is_posted = True
        if said.get("status") == "pending" and not self._as_json:
            self._screen.say(f"{self._names[job.agent.id]} is offline: its task waits for it")

    async def _insist(self, job: Job) -> dict[str, Any]:
        body = {"id": job.task_id, **self._spec}
        for attempt in range(POSTS):
            if self._stop.is_set():
                raise Failed("interrupted before it was posted", INTERRUPTED)
            try:
                said: dict[str, Any] = await self._call(job, "POST", body=body)
            except ComeBack:
                if attempt == POSTS - 1:
                    raise
                await asyncio.sleep(attempt + 0.5)
            else:
                return said
        raise AssertionError  # the last attempt returned or raised

    async def _call(self, job: Job, method: str, *parts: str, body: object = None) -> Any:
        call = partial(self._api.call, method, "api", "agents", job.agent.id, "tasks", *parts, body=body)
        return await asyncio.to_thread(call)

    async def _cancelled(self) -> None:
        """Asks for the end of what is open, and waits for it."""
        await asyncio.gather(*(self._cancel(job) for job in self._open()))
        await self._over.wait()

    async def _cancel(self, job: Job) -> None:
        try:
            await self._call(job, "POST", job.task_id, "cancel")
        except Failed as error:
            self._screen.say(f"{self._names[job.agent.id]}: not cancelled: {error}")

    async def _ask(self) -> None:
        """Asks how open tasks stand, for ever. Raises: Failed, when nobody answers for long."""
        while True:
            await asyncio.sleep(ASK_S if self._streams and self._feeds.results else ASK_ALONE_S)
            await asyncio.gather(*map(self._look_at, self._open()))
            if time.monotonic() - self._heard_s > LOST_S:
                raise Failed(f"neither the server nor Redis has answered for {LOST_S:g} s; the tasks go on", TIMEOUT)

    async def _look_at(self, job: Job) -> None:
        try:
            said = await self._call(job, "GET", job.task_id)
        except NotFound:
            self._ended(job, End("failed", -1, "the server does not know the task any more", "-1"))
        except Failed:
            return
        else:
            self._heard_s = time.monotonic()
            if said["status"] in ENDS and (job.asked_ended or not (self._streams and self._feeds.results)):
                self._ended(job, End(said["status"], 0 if said["status"] == "success" else 1, error_code="?"))
            job.asked_ended = said["status"] in ENDS

    # ---- reading

    async def _read(self, streams: Streams) -> None:
        """Reads the feeds until the run is done; a Redis that is away is waited for, and read on from where it was left."""
        is_away = False
        while not self._is_done:  # a cancellation at the moment of a reply may get lost in the driver
            try:
                entries = await streams.read()
            except Failed as error:
                if not is_away:
                    self._screen.say(f"warning: {error}; lines come when it is back")
                is_away = True
                await asyncio.sleep(1)
                continue
            is_away, self._heard_s = False, time.monotonic()
            self._take(entries)

    def _take(self, entries: Iterable[Entry]) -> int:
        """How many of the entries were ours."""
        ours = [(entry, self._jobs[task]) for entry in entries if (task := entry.fields.get("task_id")) in self._jobs]
        for entry, job in ours:
            if entry.feed == self._feeds.logs:
                self._line(job, entry.fields)
            elif entry.fields.get("status") in ENDS:
                self._ended(job, end_of(entry.fields))
        return len(ours)

    async def _last_lines(self) -> None:
        """Lines that are still on their way when the results are there."""
        deadline = time.monotonic() + LINES_S
        while self._streams and self._feeds.logs and self._misses_lines() and time.monotonic() < deadline:
            try:
                if not self._take(await self._streams.read(QUIET_MS)):
                    return
            except Failed:
                return

    def _misses_lines(self) -> bool:
        return any(job.end and job.log_bytes < job.end.log_size for job in self._jobs.values())

    # ---- telling

    def _line(self, job: Job, fields: Mapping[str, str]) -> None:
        content = fields.get("content", "")
        job.log_bytes += len(content.encode()) + 1
        if self._as_json:
            kept = {name: fields.get(name, "") for name in ("stream", "content", "timestamp")}
            self._put("log", job, kept)
        else:
            prefix = self._prefixes.get(job.agent.id, "")
            self._screen.line(content, prefix=prefix, is_err=fields.get("stream") == "stderr")

    def _ended(self, job: Job, end: End) -> None:
        if job.end is not None:
            return
        job.end = end
        if self._as_json:
            self._put("end", job, {"status": end.status, "exit_code": end.exit_code, "error_msg": end.error_msg})
        elif end.status != "success" and not (end.status == "cancelled" and self._stop.is_set()):
            self._screen.say(f"{self._names[job.agent.id]}: {end.words}")
        self._check_over()

    def _put(self, kind: str, job: Job, rest: Mapping[str, object]) -> None:
        about = {"type": kind, "agent": job.agent.name, "agent_id": job.agent.id, "task_id": job.task_id}
        self._screen.data(json.dumps({**about, **rest}, ensure_ascii=False))

    def _summed_up(self, *, late: bool) -> int:
        if still := self._open():
            ids = ", ".join(f"{self._names[job.agent.id]} {job.task_id}" for job in still[:NAMED])
            self._screen.say(f"{_counted(len(still), 'task')} not ended yet: {ids}")
        ends = [job.end for job in self._jobs.values() if job.end]
        if ends and (len(self._jobs) > 1 or self._stop.is_set()):
            self._screen.say(summary(ends))
        if self._stop.is_set():
            return TIMEOUT if late else INTERRUPTED
        return exit_code(ends)


def exit_code(ends: Sequence[End]) -> int:
    """The exit code of a run: the task's own where there is one."""
    codes = {end.exit for end in ends}
    if len(ends) == 1 or (len(codes) == 1 and codes <= {OK, TIMEOUT}):
        return codes.pop()
    return PARTLY if OK in codes else FAILED


def summary(ends: Sequence[End]) -> str:
    """How many ended how."""
    counts = Counter(
        "succeeded" if not end.exit else "timed out" if end.exit == TIMEOUT else end.status for end in ends
    )
    return f"{_counted(len(ends), 'agent')}: {', '.join(f'{count} {how}' for how, count in counts.most_common())}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


async def _first(
    steps: Iterable[Coroutine[Any, Any, object]], watchers: Sequence[asyncio.Task[None]], timeout_s: float | None
) -> None:
    """Waits until one of the steps is done, or the time is over. Raises: what a watcher or the step raises."""
    tasks = [asyncio.create_task(step, name="wait") for step in steps]
    try:
        done, _ = await asyncio.wait((*tasks, *watchers), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
