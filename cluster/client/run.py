"""One command on one agent or on many: posted, followed line by line, and ended with an exit code.

Owns what a run waits for and when it gives up; knows the API, the feeds and the screen by what they offer. Rules:

- Log lines and results come from the feeds. Without them, or when a result does not come, the API is asked how a task stands.
- An end is told behind the last line of its task (job.py).
- Stopping (Ctrl-C) and the time limit cancel what is open and wait for its end; leaving (a second Ctrl-C) does not wait.
- Redis or the server may be away for a while: nothing is lost by it. After `LOST_S` without a word from either, the run gives up.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.client.ends import ENDS, End, counted, end_of, exit_code, not_done
from cluster.client.job import QUIET_S, Job
from cluster.client.orders import Orders
from cluster.client.outcome import INTERRUPTED, TIMEOUT, Failed, NotFound
from cluster.client.report import Report
from cluster.client.streams import Entry, Streams
from cluster.redis_client import BLOCK_MS

LATE_S = 15.0  # behind the task's own time limit
CANCEL_S = 10.0  # for the ends of what was cancelled
LOST_S = 60.0
ASK_S, ASK_ALONE_S = 5.0, 1.0  # between questions to the API, with and without the feeds
QUIET_MS = int(QUIET_S * 1000)


@dataclass
class Interrupts:
    """What the user wants of a run that is under way."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self) -> None:
        """Ctrl-C: the first stops, the second leaves."""
        (self.leave if self.stop.is_set() else self.stop).set()


@dataclass(frozen=True)
class Feeds:
    """The feeds of lines and of results, by name, "" = not kept; `streams` is None where they cannot be read."""

    streams: Streams | None
    logs: str
    results: str

    @property
    def has_results(self) -> bool:
        """Whether ends come by themselves."""
        return self.streams is not None and self.results != ""


class Run:
    """A command on its way."""

    def __init__(
        self, orders: Orders, feeds: Feeds, report: Report, jobs: Sequence[Job], interrupts: Interrupts
    ) -> None:
        self._orders = orders
        self._feeds = feeds
        self._report = report
        self._jobs = {job.task_id: job for job in jobs}
        self._stop, self._leave = interrupts.stop, interrupts.leave
        self._over = asyncio.Event()
        self._ended_by_api: set[str] = set()  # their entries may be on their way
        self._heard_s = time.monotonic()

    # ---- the whole of it

    async def post(self) -> None:
        """Posts the tasks. Raises: Failed, when there is but one and it is not taken."""
        await asyncio.gather(*map(self._post, self._jobs.values()))

    async def follow(self) -> int:
        """Posts the tasks and stays until they have ended; the exit code. Raises: Failed."""
        if self._feeds.streams:
            for feed in filter(None, (self._feeds.logs, self._feeds.results)):
                await self._feeds.streams.last(feed, 0)
        self._report.progress(list(self._jobs.values()))
        await _first((self.post(), self._leave.wait()))
        self._report.waiting([job for job in self._jobs.values() if job.is_waiting])
        watchers = [asyncio.create_task(self._ask(), name="ask the server")]
        if self._feeds.streams:
            watchers.append(asyncio.create_task(self._read(self._feeds.streams), name="read the feeds"))
        try:
            late = await self._until_over(watchers)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            self._report.finish()
        return self._summed_up(late=late)

    async def _until_over(self, watchers: Sequence[asyncio.Task[None]]) -> bool:
        """Whether it was the time limit that ended the run."""
        self._tell_ends()
        await _first((self._over.wait(), self._stop.wait()), watchers, self._patience_s())
        if self._over.is_set():
            return False
        is_late = not self._stop.is_set()
        why = f"no result {LATE_S:g} s after the time limit" if is_late else "interrupted"
        self._report.say(f"{why}: cancelling {counted(len(self._open()), 'task')}")
        self._stop.set()
        await _first((self._cancelled(), self._leave.wait()), watchers, CANCEL_S)
        return is_late

    def _patience_s(self) -> float | None:
        """The time limit counts while a task runs: what waits for its agent may wait."""
        limit_s = self._orders.limit_s
        is_waiting = any(job.is_waiting for job in self._jobs.values())
        return limit_s + LATE_S if limit_s and not is_waiting else None

    def _summed_up(self, *, late: bool) -> int:
        jobs = list(self._jobs.values())
        self._report.summed_up(jobs, is_stopped=self._stop.is_set())
        if self._stop.is_set():
            return TIMEOUT if late else INTERRUPTED
        return exit_code([job.end for job in jobs if job.end])

    def _open(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.end is None]

    # ---- asking

    async def _post(self, job: Job) -> None:
        try:
            await self._orders.post(job, self._stop.is_set)
        except Failed as error:
            if len(self._jobs) == 1:
                raise
            is_interrupted = error.exit_code == INTERRUPTED
            self._ended(job, not_done(str(error), "cancelled" if is_interrupted else "failed"))

    async def _cancelled(self) -> None:
        """Asks for the end of what is open, and waits for it."""
        await asyncio.gather(*(self._cancel(job) for job in self._open()))
        await self._over.wait()

    async def _cancel(self, job: Job) -> None:
        try:
            await self._orders.cancel(job)
        except Failed as error:
            self._report.say_of(job, f"not cancelled: {error}")

    async def _ask(self) -> None:
        """Asks how open tasks stand, for ever. Raises: Failed, when nobody answers for long."""
        while True:
            await asyncio.sleep(ASK_S if self._feeds.has_results else ASK_ALONE_S)
            await asyncio.gather(*map(self._look_at, self._open()))
            if time.monotonic() - self._heard_s > LOST_S:
                raise Failed(f"neither the server nor Redis has answered for {LOST_S:g} s; the tasks go on", TIMEOUT)

    async def _look_at(self, job: Job) -> None:
        try:
            said = await self._orders.look(job)
        except NotFound:
            self._ended(job, not_done("the server does not know the task any more"))
        except Failed:
            return
        else:
            self._heard_s = time.monotonic()
            if said["status"] in ENDS:
                if job.task_id in self._ended_by_api or not self._feeds.has_results:
                    self._ended(job, end_of(said))
                self._ended_by_api.add(job.task_id)

    # ---- reading

    async def _read(self, streams: Streams) -> None:
        """Reads the feeds, for ever; a Redis that is away is waited for, and read on from where it was left."""
        is_away = False
        while True:
            try:
                entries = await streams.read(QUIET_MS if self._is_telling() else BLOCK_MS)
            except Failed as error:
                if not is_away:
                    self._report.say(f"warning: {error}; lines come when it is back")
                is_away = True
                await asyncio.sleep(1)
            else:
                is_away, self._heard_s = False, time.monotonic()
                self._take(entries)
            self._tell_ends()

    def _take(self, entries: Iterable[Entry]) -> None:
        now_s = time.monotonic()
        ours = [(entry, self._jobs[task]) for entry in entries if (task := entry.fields.get("task_id")) in self._jobs]
        for entry, job in ours:
            if entry.feed == self._feeds.logs:
                job.hear_line(entry.fields.get("content", ""), now_s)
                self._report.line(job, entry.fields)
            elif entry.fields.get("status") in ENDS:
                job.hear_end(end_of(entry.fields), now_s)

    # ---- telling

    def _ended(self, job: Job, end: End) -> None:
        job.hear_end(end, time.monotonic())
        if not self._feeds.streams or not self._feeds.logs or not job.is_posted:
            self._tell(job, end)

    def _is_telling(self) -> bool:
        return any(job.end and not job.is_told for job in self._jobs.values())

    def _tell_ends(self) -> None:
        now_s = time.monotonic()
        for job in self._jobs.values():
            if job.end and not job.is_told and job.is_complete(now_s):
                self._tell(job, job.end)
        self._report.progress(list(self._jobs.values()))

    def _tell(self, job: Job, end: End) -> None:
        if job.is_told:
            return
        job.is_told = True
        self._report.end(job, end, is_asked_for=self._stop.is_set())
        self._report.progress(list(self._jobs.values()))
        if all(job.is_told for job in self._jobs.values()):
            self._over.set()


async def _first(
    steps: Iterable[Coroutine[Any, Any, object]],
    watchers: Sequence[asyncio.Task[None]] = (),
    timeout_s: float | None = None,
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
