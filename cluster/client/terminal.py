"""A terminal that shows one page, drawn again and again in its place. Knows nothing of what it shows.

Rules:
- Whatever ends the program but a kill -9 leaves the terminal as it was: its own screen, its cursor, its echo. Ctrl-Z too.
- A page that is too wide or too long is cut, never wrapped: a narrow terminal shows less, and nothing jumps. The size is asked each time.
"""

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from typing import Any

from cluster.client.tables import width

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"  # another screen, no cursor, cleared
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_WIDTH = (24, 80)


class Terminal:
    """The terminal of this process, between `shown()` and its end."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._before: list[Any] = []
        self._page: Sequence[str] = ()
        self.ended = asyncio.Event()
        self.is_interrupted = False

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Takes the terminal, and gives it back. `ended` is set by q, Ctrl-C and SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt)
        loop.add_signal_handler(signal.SIGWINCH, self._redraw)
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        try:
            self._enter()
            if self._keys >= 0:
                loop.add_reader(self._keys, self._read)
            yield
        finally:
            if self._keys >= 0:
                loop.remove_reader(self._keys)
            self._leave()

    def draw(self, page: Sequence[str]) -> None:
        """Shows this page."""
        self._page = page
        self._redraw()

    def _redraw(self) -> None:
        rows, columns = _size()
        self._write(_HOME + (_REST_OF_LINE + "\n").join(fitted(self._page, rows, columns)) + _REST_OF_LINE + _REST)

    def _enter(self) -> None:
        if self._keys >= 0:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys, termios.TCSANOW)
        self._write(_ENTER)

    def _leave(self) -> None:
        self._write(_LEAVE)
        if self._before:
            with contextlib.suppress(termios.error, OSError):  # it is gone
                termios.tcsetattr(self._keys, termios.TCSANOW, self._before)

    def _suspend(self) -> None:
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()
        self._redraw()

    def _interrupt(self) -> None:
        self.is_interrupted = True
        self.ended.set()

    def _read(self) -> None:
        keys = b""
        with contextlib.suppress(OSError):
            keys = os.read(self._keys, 64)
        if not keys:  # nobody types any more
            asyncio.get_running_loop().remove_reader(self._keys)
        if b"q" in keys.lower():
            self.ended.set()

    @staticmethod
    def _write(text: str) -> None:
        with contextlib.suppress(OSError):  # it is gone
            sys.stdout.write(text)
            sys.stdout.flush()


def _size() -> tuple[int, int]:
    """Rows and columns; of a terminal that does not say, the usual."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return _WIDTH
    return (rows, columns) if rows and columns else _WIDTH


def fitted(page: Sequence[str], rows: int, columns: int) -> list[str]:
    """As much of a page as fits."""
    shown = [_cut(line, columns - 1) for line in page[:rows]]
    if len(page) > rows:
        shown[-1:] = [_cut(f"... {len(page) - rows + 1} more lines", columns - 1)]
    return shown


def _cut(line: str, columns: int) -> str:
    line = line[: max(0, columns)]
    while width(line) > columns > 0:  # wide letters
        line = line[:-1]
    return line
