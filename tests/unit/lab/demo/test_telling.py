"""What is told and how: plain in pipes, coloured on terminals; and what is waited for, with a deadline."""

import asyncio
import io
from collections.abc import Sequence
from typing import Any

import pytest
from typing_extensions import override

from cluster.client.ends import End
from cluster.client.outcome import Failed
from cluster.client.streams import Entry
from cluster.lab.demo.account import Task
from cluster.lab.demo.patience import until
from cluster.lab.demo.stage import Row, table_from
from cluster.lab.demo.voice import Voice
from cluster.lab.demo.watcher import Watcher
from cluster.settings import Settings

TASK = Task("t1", "web-1", "build", "...", ("one",))
PRINTED = """\
process  pid  cpu  address
redis    11   -    redis://127.0.0.1:6379/0
r1       12   0    http://127.0.0.1:45193, admin http://127.0.0.1:46193
n1       13   1    admin http://127.0.0.1:46194
ready http://127.0.0.1:45193
"""


class Terminal(io.StringIO):
    """Text that is shown."""

    @override
    def isatty(self) -> bool:
        return True


class Feeds:
    """Feeds whose entries a test puts there."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[list[Entry] | Exception] = asyncio.Queue()

    def put(self, feed: str, **fields: str) -> None:
        self.coming.put_nowait([Entry(feed, "1-1", fields)])

    async def last(self, feed: str, count: int) -> list[Entry]:
        return []

    async def read(self, block_ms: int) -> list[Entry]:
        came = await self.coming.get()
        if isinstance(came, Exception):
            raise came
        return came

    async def close(self) -> None: ...


def watcher_of(feeds: Any, out: io.StringIO | None = None) -> Watcher:
    watcher = Watcher(feeds, Settings(), Voice(out or io.StringIO()))
    watcher.expect(TASK)
    return watcher


def told_by(out: io.StringIO) -> list[str]:
    """What was told, without the seconds."""
    return [line[9:] for line in out.getvalue().splitlines()]


def all_of(voice: Voice) -> None:
    voice.step("1/6", "a step")
    voice.status("web-1", "online")
    voice.line("web-1", "a line\x1b[2J", is_err=False)
    voice.end("web-1", "build", End("failed", 3, "exit status 3"))


def test_a_pipe_gets_neither_colours_nor_cursor_tricks() -> None:
    out = io.StringIO()
    all_of(Voice(out, name_columns=6))
    assert out.getvalue().replace("\n", "").isprintable()
    assert told_by(out)[2:] == ["web-1  * online", "web-1  | a line\\x1b[2J", "web-1  = build: failed, exit code 3"]


def test_a_terminal_gets_colours_and_nothing_that_moves_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    all_of(Voice(out))
    assert "\x1b[32monline\x1b[0m" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_a_terminal_may_decline_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    all_of(Voice(out))
    assert "\x1b" not in out.getvalue()


def test_the_table_of_start_is_read() -> None:
    rows, url = table_from(PRINTED)
    assert url == "http://127.0.0.1:45193"
    assert rows[0] == Row("redis", 11, "redis://127.0.0.1:6379/0")
    assert rows[2] == Row("n1", 13, "admin http://127.0.0.1:46194")


async def test_what_is_not_so_by_its_deadline_is_said() -> None:
    with pytest.raises(Failed, match=r"^n1 does not serve again within 0\.1 s$"):
        await until(lambda: False, 0.1, "n1 does not serve again")


async def test_an_end_that_does_not_come_is_said() -> None:
    async with watcher_of(Feeds()) as watcher:
        with pytest.raises(Failed, match=r"^the end of 'build' on web-1, or one of its 1 lines, was not to be seen"):
            await watcher.until_whole([TASK], 0.1)


async def test_an_end_is_not_enough_without_its_lines() -> None:
    feeds = Feeds()
    async with watcher_of(feeds) as watcher:
        feeds.put("agent_results", task_id="t1", status="success")
        with pytest.raises(Failed, match="was not to be seen"):
            await watcher.until_whole([TASK], 0.1)
        feeds.put("agent_logs", task_id="t1", content="one")
        await watcher.until_whole([TASK], 10.0)


async def test_an_end_that_is_another_than_told_is_said() -> None:
    feeds = Feeds()
    async with watcher_of(feeds) as watcher:
        feeds.put("agent_logs", task_id="t1", content="one")
        feeds.put("agent_results", task_id="t1", status="failed", exit_code="3", error_msg="exit status 3")
        with pytest.raises(Failed, match=r"^'build' on web-1: failed, exit code 3, and not success$"):
            await watcher.until_whole([TASK], 10.0)


async def test_feeds_that_cannot_be_read_end_the_waiting_at_once() -> None:
    feeds = Feeds()
    async with watcher_of(feeds) as watcher:
        feeds.coming.put_nowait(Failed("Redis does not answer"))
        with pytest.raises(Failed, match=r"^Redis does not answer$"):
            await watcher.until_whole([TASK], 60.0)


async def statuses_of(entries: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is remembered of the status feed, and what is told."""
    feeds, out = Feeds(), io.StringIO()
    async with watcher_of(feeds, out) as watcher:
        for status in entries:
            feeds.put("agent_status", agent_id="a", agent_name="web-1", status=status)
        await watcher.until(feeds.coming.empty, 10.0, "all entries")
        return watcher.statuses["web-1"], told_by(out)


async def test_changes_of_an_agents_status_are_told_once() -> None:
    remembered, told = await statuses_of(["active", "online", "online", "offline", "active", "online"])
    assert remembered == ["online", "offline", "online"]
    assert told == ["web-1 * online", "web-1 * offline", "web-1 * online"]
