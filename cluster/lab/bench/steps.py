"""How far a scenario has come: it names each step as it begins, and a bar on a terminal shows it. Elsewhere a line a scenario is enough."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from cluster.client.screen import bar

Step = Callable[[str], None]
_TAKE_AWAY = "\r\x1b[K"


class Progress:
    """One run's progress, on standard error."""

    def __init__(self, err: TextIO | None = None) -> None:
        self._err = err or sys.stderr
        self._is_terminal = self._err.isatty()
        self._title = ""
        self._steps = self._done = 0
        self._began_s = 0.0

    def begin(self, title: str, steps: int) -> Step:
        """A scenario begins; what is returned is to be called before each of its steps."""
        self._title, self._steps, self._done, self._began_s = title, steps, 0, time.monotonic()
        return self._step

    def end(self) -> None:
        """The scenario has ended."""
        took = f"{self._title}: {time.monotonic() - self._began_s:.0f} s\n"
        self._write((_TAKE_AWAY if self._is_terminal else "") + took)

    def _step(self, words: str) -> None:
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns
            drawn = f"{self._title} {bar(min(self._done, self._steps), 0, self._steps, columns // 2)} {words}"
            self._write(_TAKE_AWAY + drawn[: columns - 1])
        self._done += 1

    def _write(self, text: str) -> None:
        self._err.write(text)
        self._err.flush()
