"""What one fault test found: the fault, the load, how much was looked at beside every zero, and what was measured beside what is asked.

Owns the numbers and their line; `report.py` puts them into a table. The counts are a history's, as the checker judged it.
"""

from collections import Counter
from typing import Any

import msgspec

from tests.support.checker import Verdict
from tests.support.said import Say

_LOST = {"lost", "acked and not written", "group missed"}
_DOUBLED = {"ended twice", "doubled", "ran again", "after its end"}


class Measure(msgspec.Struct, frozen=True):
    """One figure, and what is asked of it."""

    what: str
    found: str
    asked: str

    def __str__(self) -> str:
        return f"{self.what}: {self.found}" + (f" (asked: {self.asked})" if self.asked else "")


class Finding(msgspec.Struct):
    """A row of the table. `number` is the fault's, F1 to F26, or another name; `strikes` how often the fault was done;
    `kills`: and a process of the cluster, or its Redis, ended by `kill -9` with it.
    """

    say: Say
    test: str
    number: str = ""
    fault: str = ""
    load: str = ""
    redis: str = ""
    seed: str = ""
    tasks: int = 0
    strikes: int = 0
    kills: int = 0
    lost: int = 0
    doubled: int = 0
    otherwise_wrong: int = 0
    falsely_offline: int = 0
    measures: list[Measure] = []
    outcome: str = "not finished"
    took_s: float = 0.0
    is_judged: bool = False
    calm_s: float = 0.0  # the longest that it took until all had ended once the load was over

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

    def measured(self, what: str, found: Any, asked: str = "") -> None:
        """A figure of this test: a number is taken to be seconds."""
        text = f"{found:.2f} s" if isinstance(found, float) else str(found)
        self.measures.append(Measure(what, text, asked))

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

    def __str__(self) -> str:
        counts = f"n = {self.tasks} tasks, {self.strikes} strikes, {self.kills} kills"
        zeros = f"{self.lost} lost, {self.doubled} doubled, {self.otherwise_wrong} otherwise wrong, {self.falsely_offline} falsely offline"
        looked = [counts, zeros if self.is_judged else "no history"]
        return " | ".join([f"{self.number} {self.fault}", self.load or "-", *looked, *self.figures(), self.outcome])

    def figures(self) -> list[str]:
        """What was measured beside what is asked."""
        calm = [f"all ended and acked {self.calm_s:.1f} s after the load"] if self.is_judged and self.calm_s else []
        return [*map(str, self.measures), *calm]
