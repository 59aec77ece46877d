"""How the story is told: a line as it happens, with the seconds since the beginning.

Knows no story. Rules: colours on a terminal alone; no line is ever taken back; what is told is out at once. Nobody reads any more: Failed.
"""

import os
import sys
import time
from typing import TextIO

from cluster.client.ends import End
from cluster.client.outcome import Failed
from cluster.client.tables import padded, shown, shown_output

_BOLD, _DIM, _RED, _GREEN, _YELLOW, _PLAIN = "1", "2", "31", "32", "33", "0"
_INDENT = " " * 9


class Voice:
    """Tells on stdout. `out` is for tests."""

    def __init__(self, out: TextIO | None = None, *, name_columns: int = 0) -> None:
        """`name_columns`: how wide the widest name of an agent is."""
        self._out = out or sys.stdout
        self._is_coloured = self._out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._columns = name_columns
        self._began_s = time.monotonic()

    @property
    def passed_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began_s

    def say(self, words: str) -> None:
        """Words that stand by themselves."""
        self._put(words)

    def step(self, place: str, words: str) -> None:
        """A step of the story begins."""
        self._put("\n" + self._in(_BOLD, f"{place}  {words}"))

    def tell(self, words: str) -> None:
        """What we do, or have found."""
        self._put(f"{self._now()}{words}")

    def more(self, words: str) -> None:
        """More of the same moment."""
        self._put(f"{_INDENT}{words}")

    def status(self, agent: str, status: str, why: str = "") -> None:
        """The status feed says how an agent is."""
        colour = _GREEN if status == "online" else _YELLOW
        self._feed(agent, "*", self._in(colour, shown(status)) + (f" ({shown(why)})" if why else ""))

    def line(self, agent: str, text: str, *, is_err: bool) -> None:
        """The log feed has a line of a task."""
        self._feed(agent, "!" if is_err else "|", shown_output(text))

    def end(self, agent: str, title: str, end: End) -> None:
        """The result feed has the end of a task."""
        colour = _GREEN if end.status == "success" else _RED
        self._feed(agent, "=", f"{title}: {self._in(colour, end.words)}")

    def _feed(self, agent: str, mark: str, text: str) -> None:
        self._put(f"{self._now()}{padded(shown(agent), self._columns)} {self._in(_DIM, mark)} {text}")

    def _now(self) -> str:
        return self._in(_DIM, f"{self.passed_s:6.1f}s  ")

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[{_PLAIN}m" if self._is_coloured else text

    def _put(self, text: str) -> None:
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())  # what is still buffered has to go somewhere
            raise Failed("nobody reads what the demo tells") from error
