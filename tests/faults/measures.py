"""What a test measured, once or again and again, as one line: n, the median and the worst beside what is asked.

Owns how figures are put together. A figure is a number with a unit, a count of those for which something held, or words.
"""

import statistics
from collections.abc import Iterable, Iterator

import msgspec


class Measure(msgspec.Struct, frozen=True):
    """One figure, and what is asked of it. `of`: it is a count, of so many; else `unit` is the number's, and words have none."""

    what: str
    found: float | str
    asked: str = ""
    unit: str = ""
    of: int = -1


def lines(measures: Iterable[Measure]) -> Iterator[str]:
    """A line each, those of the same kind together."""
    kinds: dict[tuple[str, str], list[Measure]] = {}
    for measure in measures:
        kinds.setdefault((measure.what, measure.asked), []).append(measure)
    for (what, asked), same in kinds.items():
        yield f"{what}: {_together(same)}" + (f" (asked: {asked})" if asked else "")


def _together(same: list[Measure]) -> str:
    first = same[0]
    numbers = [measure.found for measure in same if not isinstance(measure.found, str)]
    if len(numbers) < len(same):
        return ", ".join(dict.fromkeys(str(measure.found) for measure in same))
    if first.of >= 0:
        return f"{sum(numbers):,.0f} of {sum(measure.of for measure in same):,}"
    if len(numbers) == 1:
        return _number(numbers[0], first.unit)
    worst = min(numbers) if first.asked.startswith(">") else max(numbers)
    return f"n = {len(numbers)}, median {_number(statistics.median(numbers), first.unit)}, worst {_number(worst, first.unit)}"


def _number(number: float, unit: str) -> str:
    digits = 2 if unit == "s" else 1 if unit else 0
    return f"{number:,.{digits}f} {unit}".rstrip()
