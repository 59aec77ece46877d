"""Where the lines of a run go: output of tasks to stdout and stderr as the tasks wrote it, words and a progress bar to stderr.

Knows neither Redis nor HTTP. Rules:

- The bar is drawn on a terminal alone, below everything else; whoever writes takes it away first.
- What a terminal is shown can neither move its cursor nor begin a line; a file or a pipe gets a line as it is.
"""

import shutil
import sys
import time
from typing import TextIO

from cluster.client.tables import padded, shown_output, width

_REDRAW_S = 0.1
_WIDEST_BAR = 30
_TAKE_AWAY = "\r\x1b[K"


class Screen:
    """One run's output. `out` and `err` are for tests."""

    def __init__(self, *, steps: int = 0, out: TextIO | None = None, err: TextIO | None = None) -> None:
        """`steps`: how many there are to count, for the bar; 0 = no bar."""
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._steps = steps if self._err.isatty() else 0
        self._bar = ""
        self._drawn_s = 0.0

    def line(self, text: str, *, prefix: str = "", is_err: bool = False) -> None:
        """A line of a task's output."""
        target = self._err if is_err else self._out
        self._put(target, f"{prefix}{shown_output(text) if target.isatty() else text}")

    def data(self, text: str) -> None:
        """A line of data."""
        self._put(self._out, text)

    def say(self, words: str) -> None:
        """Words for people."""
        self._put(self._err, f"agent-server: {words}")

    def progress(self, done: int, failed: int) -> None:
        """Draws the bar, not too often."""
        now_s = time.monotonic()
        if self._steps and (now_s - self._drawn_s >= _REDRAW_S or done == self._steps):
            self._drawn_s = now_s
            self._bar = bar(done, failed, self._steps, shutil.get_terminal_size().columns)
            self._write(self._err, _TAKE_AWAY + self._bar)

    def finish(self) -> None:
        """Takes the bar away."""
        if self._bar:
            self._write(self._err, _TAKE_AWAY)
        self._bar, self._steps = "", 0

    def _put(self, target: TextIO, text: str) -> None:
        hides_bar = self._bar and target.isatty()
        if hides_bar:
            self._write(self._err, _TAKE_AWAY)
        self._write(target, text + "\n")
        if hides_bar:
            self._write(self._err, self._bar)

    @staticmethod
    def _write(target: TextIO, text: str) -> None:
        target.write(text)
        target.flush()


def bar(done: int, failed: int, steps: int, columns: int) -> str:
    """A progress bar that fits into a line."""
    words = f" {done}/{steps}" + (f", {failed} failed" if failed else "")
    size = max(0, min(_WIDEST_BAR, columns - len(words) - 3))
    filled = size * done // steps
    return f"[{'#' * filled}{'-' * (size - filled)}]{words}" if size else words.strip()[: columns - 1]


def prefixes(names: dict[str, str]) -> dict[str, str]:
    """What lines of each agent begin with, all of one width."""
    widest = max(map(width, names.values()), default=0)
    return {agent_id: f"{padded(name, widest)} | " for agent_id, name in names.items()}
