"""What one fault test found: the fault, the load, how much was looked at beside every zero, and what was measured beside what is asked.

Owns the numbers and their line; `report.py` puts them into a table. The counts are a history's, as the checker judged it.
"""

from collections import Counter

import msgspec

from tests.faults.measures import Measure, lines
from tests.support.checker import Verdict
from tests.support.said import Say

_LOST = {"lost", "acked and not written", "group missed"}
_DOUBLED = {"ended twice", "doubled", "ran again", "after its end"}


class Row(msgspec.Struct, kw_only=True):
    """What the table says of one test. `number` is the fault's, F1 to F26, or another name; `strikes` how often the fault was done;
    `kills`: and a process of the cluster, or its Redis, ended by `kill -9` with it.
    """

    test: str
    number: str = ""
    fault: str = ""
    load: str = ""
    redis: str = ""
    seed: str = ""
    commit: str = ""
    tasks: int = 0
    strikes: int = 0
    kills: int = 0
    inputs: int = 0
    lost: int = 0
    doubled: int = 0
    otherwise_wrong: int = 0
    falsely_offline: int = 0
    measures: list[Measure] = []
    outcome: str = "not finished"
    took_s: float = 0.0
    is_judged: bool = False
    calm_s: float = 0.0  # the longest that it took until all had ended once the load was over

    def figures(self) -> list[str]:
        """What was measured beside what is asked."""
        calm = [f"all ended and acked {self.calm_s:.1f} s after the load"] if self.is_judged and self.calm_s else []
        return [*lines(self.measures), *calm]


class Finding(Row, kw_only=True):
    """A row while its test fills it in."""

    say: Say

    def about(self, number: str, fault: str, load: str = "") -> None:
        """Which fault this is, and under which load."""
        self.number, self.fault, self.load = number, fault, load

    def struck(self, times: int = 1) -> None:
        """The fault was done so many times more."""
        self.strikes += times

    def killed(self, processes: int = 1) -> None:
        """So many processes more were ended by `kill -9`, each a strike."""
        self.strikes += processes
        self.kills += processes

    def tried(self, inputs: int) -> None:
        """So many inputs more were given, each of them wrong in some way."""
        self.inputs += inputs

    def measured(self, what: str, found: float | str, asked: str = "", *, unit: str = "s") -> None:
        """A figure of this test; the same again is put together with it."""
        self.measures.append(Measure(what, found, asked, unit if isinstance(found, float) else ""))

    def counted(self, what: str, count: int, of: int, asked: str = "") -> None:
        """Of so many, so many were so."""
        self.measures.append(Measure(what, float(count), asked, of=of))

    def calmed(self, took_s: float) -> None:
        """All has ended, and is acked, so long after the load."""
        self.calm_s = max(self.calm_s, took_s)

    def judged(self, verdict: Verdict, falsely_offline: int = 0, *, before: int = 0) -> None:
        """What the checker said of the history. `before`: tasks in it that an earlier test answers for."""
        sorts = Counter(line.partition(":")[0] for line in verdict.violations)
        lost = sum(sorts[sort] for sort in _LOST)
        doubled = sum(sorts[sort] for sort in _DOUBLED)
        self.tasks += verdict.counts["tasks accepted"] - before
        self.lost += lost
        self.doubled += doubled
        self.otherwise_wrong += sum(sorts.values()) - lost - doubled
        self.falsely_offline += falsely_offline
        self.is_judged = True

    def row(self) -> Row:
        """What stays of it."""
        return msgspec.convert(self, Row, from_attributes=True)

    def __str__(self) -> str:
        counts = f"n = {self.tasks} tasks, {self.strikes} strikes, {self.kills} kills, {self.inputs} inputs"
        zeros = f"{self.lost} lost, {self.doubled} doubled, {self.otherwise_wrong} otherwise wrong, {self.falsely_offline} falsely offline"
        looked = [counts, zeros if self.is_judged else "no history"]
        return " | ".join([f"{self.number} {self.fault}", self.load or "-", *looked, *self.figures(), self.outcome])
