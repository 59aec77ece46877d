"""One performance of the demo, from the first process to the last: plays the story, and clears the stage whatever happens.

Owns signals and the exit code. SIGINT, SIGTERM and SIGHUP end it at any step; a second one kills what takes its time to stop.
"""

import asyncio
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from cluster.client.outcome import INTERRUPTED, OK, Failed
from cluster.client.tables import shown
from cluster.lab.demo.stage import Stage
from cluster.lab.demo.story import AGENTS, Story
from cluster.lab.demo.voice import Voice

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_VERDICT_S = 0.5  # a process that died is the reason, whatever the story missed first: its end is told a moment later
_INTRODUCTION = """\
agent-server demo: a whole cluster on this machine and three agents, in a scratch directory of their own.
It takes about half a minute and leaves nothing behind; Ctrl-C ends it at any time."""


class Show:
    """The stage, the story, and what may end it."""

    def __init__(self, stage: Stage, voice: Voice) -> None:
        self._stage = stage
        self._voice = voice
        self._story = Story(stage, voice)
        self._asked = asyncio.Event()

    async def run(self, *, keep: bool) -> int:
        """Plays, and clears the stage. Returns the exit code. Raises: Failed when something did not come out as told."""
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        is_over = False
        try:
            is_over = await self._play()
            if is_over and keep:
                self._voice.say(f"\nEverything runs on until Ctrl-C. In another terminal:{self._tries()}")
                await self._asked.wait()
        finally:
            await self._stage.strike()
        if not is_over:
            self._voice.say(f"\nInterrupted. All processes have ended, {self._stage.folder} is removed.")
            return INTERRUPTED
        self._voice.say(f"\nIt was as told. All processes have ended, {self._stage.folder} is removed.")
        if not keep:
            self._voice.say(f"What to try next (demo --keep leaves the cluster running, to look around):{_next()}")
        return OK

    def _on_signal(self) -> None:
        if self._asked.is_set():
            self._stage.kill()
        self._asked.set()

    async def _play(self) -> bool:
        """Whether it came to its end; False: it was interrupted. Raises: Failed."""
        try:
            return await self._is_played()
        except Failed as error:
            for words in self._stage.last_words():
                self._voice.more(f"last of {shown(words)}")
            raise Failed(f"{self._story.place} did not come out as told: {error}") from error

    async def _is_played(self) -> bool:
        """Whether the story was over before anybody asked us to end. Raises: Failed when it fails, or a process dies."""
        story = asyncio.create_task(self._story.play(), name="story")
        asked = asyncio.create_task(self._asked.wait(), name="asked to end")
        try:
            events: tuple[asyncio.Future[Any], ...] = (story, asked, self._stage.broken)
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            if story.done() and story.exception():
                await asyncio.wait({self._stage.broken}, timeout=_VERDICT_S)
            if self._stage.broken.done() and not asked.done():
                raise Failed(self._stage.broken.result())
            if story.done():
                story.result()
            return story.done()
        finally:
            for task in (story, asked):
                task.cancel()
            await asyncio.gather(story, asked, return_exceptions=True)

    def _tries(self) -> str:
        where = f"--url {self._stage.url}"
        data = f"--data-dir {shlex.quote(str(self._stage.data_dir))}"
        return _commands(
            f"agents list {where}",
            f"tasks run {AGENTS[0]} {where} {data} -- 'echo hello; uptime'",
            f"streams tail results {data}",
        )


def _next() -> str:
    return _commands("start", "agent --name web-1", "tasks run web-1 -- 'echo hello; uptime'")


def _commands(*lines: str) -> str:
    return "".join(f"\n  {_program()} {line}" for line in lines)


def _program() -> str:
    """This program, as it was called."""
    called = sys.argv[0]
    name = Path(called).name
    return called if name == "agent-server" and shutil.which(name) != called else "agent-server"


async def show(*, keep: bool) -> int:
    """The demo. Returns the exit code. Raises: Failed."""
    voice = Voice(name_columns=max(map(len, AGENTS)))
    voice.say(_INTRODUCTION)
    return await Show(Stage(), voice).run(keep=keep)
