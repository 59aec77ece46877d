"""Follows the three feeds as a control plane does, tells each entry as it comes, and remembers what came.

Owns what was seen and the waiting for it; knows no process. Rule: what does not come by its deadline is a Failed that says what it was.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Self

from cluster.client.ends import ENDS, End, end_of
from cluster.client.outcome import Failed
from cluster.client.streams import Entry, Streams
from cluster.lab.demo.account import Account, Fields, Task, account
from cluster.lab.demo.voice import Voice
from cluster.settings import Settings

_BLOCK_MS = 200
_CHANGES = ("online", "offline")
_WHOLE_FEED = 100_000  # entries: more than a demo ever writes


class Watcher:
    """What the feeds have said so far. Use as an async context manager."""

    def __init__(self, streams: Streams, settings: Settings, voice: Voice) -> None:
        self.ids: dict[str, str] = {}  # of agents, by their names
        self.statuses: dict[str, list[str]] = defaultdict(list)  # changes alone, by the agents' names
        self.lines: dict[str, list[str]] = defaultdict(list)
        self.ends: dict[str, list[End]] = defaultdict(list)
        self._tasks: dict[str, Task] = {}
        self._streams = streams
        self._status, self._logs, self._results = (
            section.key for section in (settings.status_stream, settings.log_stream, settings.result_stream)
        )
        self._voice = voice
        self._news = asyncio.Event()
        self._fault: Exception | None = None
        self._is_over = False
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for feed in (self._status, self._logs, self._results):
            await self._streams.last(feed, 0)
        self._following = asyncio.create_task(self._follow(), name="follow the feeds")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True  # a cancellation at the moment of a reply may get lost in the driver
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._streams.close()

    def expect(self, task: Task) -> None:
        """This task is about to be posted."""
        self._tasks[task.id] = task

    async def until(self, is_so: Callable[[], bool], within_s: float, what: str) -> None:
        """Waits for entries that make it so. Raises: Failed, with what has not come."""
        try:
            async with asyncio.timeout(within_s):
                while not is_so():
                    if self._fault is not None:
                        raise self._fault
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Failed(f"{what} was not to be seen within {within_s:g} s") from None

    def is_whole(self, task: Task) -> bool:
        """Whether all lines and the end of a task have come."""
        return bool(self.ends[task.id]) and len(self.lines[task.id]) >= len(task.lines)

    async def until_whole(self, tasks: Iterable[Task], within_s: float) -> None:
        """Waits for the lines and the ends of these tasks. Raises: Failed, also when one ends otherwise than it should."""
        for task in tasks:
            what = f"the end of '{task.title}' on {task.agent}, or one of its {len(task.lines)} lines,"
            await self.until(lambda task=task: self.is_whole(task), within_s, what)  # type: ignore[misc]
            end = self.ends[task.id][0]
            if end.status != task.status:
                raise Failed(f"'{task.title}' on {task.agent}: {end.words}, and not {task.status}")

    async def account(self) -> Account:
        """Reads the feeds anew from their beginning, and counts. Raises: Failed."""
        results, logs = [await self._whole(feed) for feed in (self._results, self._logs)]
        return account(self._tasks.values(), results, logs)

    async def _whole(self, feed: str) -> list[Fields]:
        return [entry.fields for entry in await self._streams.last(feed, _WHOLE_FEED)]

    # ---- reading

    async def _follow(self) -> None:
        try:
            while not self._is_over:
                for entry in await self._streams.read(_BLOCK_MS):
                    self._take(entry)
        except Exception as error:  # noqa: BLE001 - raised again where the story waits
            self._fault = error
        self._news.set()

    def _take(self, entry: Entry) -> None:
        fields = entry.fields
        if entry.feed == self._status:
            self._take_status(fields)
        elif task := self._tasks.get(fields.get("task_id", "")):
            if entry.feed == self._logs:
                self._take_line(task, fields)
            elif fields.get("status") in ENDS:
                self._take_end(task, end_of(fields))
        self._news.set()

    def _take_status(self, fields: Fields) -> None:
        name, status = fields.get("agent_name", ""), fields.get("status", "")
        self.ids[name] = fields.get("agent_id", "")
        if status in _CHANGES and self.statuses[name][-1:] != [status]:  # `active` tells of a registration
            self.statuses[name].append(status)
            self._voice.status(name, status, fields.get("disconnect_reason", ""))

    def _take_line(self, task: Task, fields: Fields) -> None:
        content = fields.get("content", "")
        self.lines[task.id].append(content)
        self._voice.line(task.agent, content, is_err=fields.get("stream") == "stderr")

    def _take_end(self, task: Task, end: End) -> None:
        self.ends[task.id].append(end)
        self._voice.end(task.agent, task.title, end)
