"""What a scenario found: readings for people, figures that have a target, charts. And the median of several runs."""

from collections.abc import Sequence
from statistics import median

import msgspec
from msgspec import Struct


class Reading(Struct, frozen=True):
    """One number, named in full."""

    name: str
    value: float
    unit: str


class Figure(Struct, frozen=True):
    """One row of the table of figures (`figures.py`): what was measured, and the limit beside it, if it is a ratio to one."""

    key: str
    measured: float
    limit: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Measured to limit; None without a limit."""
        return self.measured / self.limit if self.limit else None


class Chart(Struct, frozen=True):
    """Lines over a number, or bars of names. `x` are labels or numbers; each series has a value for each."""

    title: str
    unit: str
    x: list[str]
    series: dict[str, list[float]]
    is_line: bool = False


class Findings(Struct):
    """What one scenario found."""

    scenario: str
    readings: list[Reading] = msgspec.field(default_factory=list)
    figures: list[Figure] = msgspec.field(default_factory=list)
    charts: list[Chart] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)

    def read(self, name: str, value: float, unit: str) -> float:
        """Adds a reading, and returns its value."""
        self.readings.append(Reading(name, value, unit))
        return value

    def figure(self, key: str, measured: float, limit: float | None = None, note: str = "") -> None:
        """Adds a figure."""
        self.figures.append(Figure(key, measured, limit, note))

    def value(self, name: str) -> float:
        """A reading by its name. Raises: KeyError."""
        for reading in self.readings:
            if reading.name == name:
                return reading.value
        raise KeyError(name)


def medians(runs: Sequence[Findings]) -> Findings:
    """Each reading's median, each figure of the run with the median ratio; charts of the last run."""
    last = runs[-1]
    readings = [
        Reading(reading.name, median(run.value(reading.name) for run in runs), reading.unit)
        for reading in last.readings
    ]
    figures = [
        _middle([figure for run in runs for figure in run.figures if figure.key == key.key]) for key in last.figures
    ]
    return Findings(last.scenario, readings, figures, last.charts, last.notes)


def _middle(found: list[Figure]) -> Figure:
    return sorted(found, key=lambda figure: figure.ratio or figure.measured)[len(found) // 2]
