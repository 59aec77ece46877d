"""Text for people: columns, ages, and what a terminal may be shown of words that others wrote. Prints nothing.

Rule: what comes from agents can neither begin a line nor move the cursor. Output of tasks may keep its colours.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_COLOUR_OFF = "\x1b[0m"
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under heads, each column as wide as its widest cell; lines end with a line feed."""
    lines = [list(heads), *([shown(cell) for cell in row] for row in rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    return "".join(_line(line, widths) for line in lines)


def pairs(fields: Mapping[str, object]) -> str:
    """A name and a value a line; what has no value is left out."""
    kept = {name: shown(value) for name, value in fields.items() if value not in (None, "")}
    widest = max(map(width, kept), default=0)
    return "".join(_line((name, value), (widest, 0)) for name, value in kept.items())


def labels(given: Mapping[str, str]) -> str:
    """Labels as they are given on a command line."""
    return ",".join(f"{key}={value}" for key, value in sorted(given.items()))


def age(at: str, now: datetime) -> str:
    """How long ago a time (RFC 3339) was: `3s`, `5m`, `2d`."""
    try:
        passed_s = max(0, int((now - datetime.fromisoformat(at)).total_seconds()))
    except ValueError:
        return shown(at)
    return next((f"{passed_s // size}{unit}" for unit, size in _UNITS if passed_s >= size), f"{passed_s}s")


def shown(value: object) -> str:
    """Any value as text without a character that is not printable."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(map(_escaped, text))


def shown_output(text: str) -> str:
    """A line of a task's output, as a terminal may be given it: colours stay and end with the line, tabs stay."""
    if text.isprintable():
        return text
    parts = _COLOUR.split(text)
    plain = (part if place % 2 else "".join(map(_untabbed, part)) for place, part in enumerate(parts))
    return "".join(plain) + (_COLOUR_OFF if len(parts) > 1 else "")


def width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, columns: int) -> str:
    """The text, filled up to these columns."""
    return text + " " * (columns - width(text))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(map(padded, cells, widths)).rstrip() + "\n"


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _untabbed(char: str) -> str:
    return char if char == "\t" else _escaped(char)
