"""The same warning again and again: some a minute are written, the others counted.

Owns which records are left out; knows neither forms nor files. Rules:

- "The same" is one text of one module at one level, whatever it is filled in with.
- Warnings and errors only: what is less is asked for by who wants all of it, what is more ends a process.
- What was left out is told, with how many there were, by the first record of any kind in a later minute; the last minute's, at the end.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from typing_extensions import override

A_MINUTE: Final = 30
MINUTE_S: Final = 60.0
MOST_TEXTS: Final = 1000  # that are counted at once

_Text = tuple[str, int, str]


class Sampling(logging.Filter):
    """The filter of one handler."""

    def __init__(
        self, tell: Callable[[logging.LogRecord], object], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` gets the records that say what was left out."""
        super().__init__()
        self._tell = tell
        self._now_s = now_s
        self._ends_s = now_s() + MINUTE_S
        self._seen: dict[_Text, int] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if self._now_s() >= self._ends_s:
            self.sum_up()
        if not logging.WARNING <= record.levelno < logging.CRITICAL:
            return True
        text = (record.name, record.levelno, str(record.msg))
        if text not in self._seen and len(self._seen) >= MOST_TEXTS:
            return True
        self._seen[text] = self._seen.get(text, 0) + 1
        return self._seen[text] <= A_MINUTE

    def sum_up(self) -> None:
        """Says what was left out, and begins another minute."""
        self._ends_s = self._now_s() + MINUTE_S
        seen, self._seen = self._seen, {}
        for (name, level, text), count in seen.items():
            if count > A_MINUTE:
                self._tell(_summary(name, level, text, count - A_MINUTE))


def _summary(name: str, level: int, text: str, left_out: int) -> logging.LogRecord:
    message = "%d more like this were left out: %s"
    record = logging.LogRecord(name, level, __file__, 0, message, (left_out, text), None, "sum_up")
    record.left_out = left_out
    return record
