"""When connections are taken out of the collector's sight, and when all of them are looked at again."""

import pytest

from node import freezing
from node.freezing import WAVE, Freezer


class Collector:
    """What was asked of `gc`, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def unfreeze(self) -> None:
        self.asked.append("unfreeze")

    def collect(self, generation: int) -> None:
        self.asked.append(f"collect {generation}")

    def freeze(self) -> None:
        self.asked.append("freeze")


YOUNGEST, ALL = ["collect 0", "freeze"], ["unfreeze", "collect 2", "freeze"]


@pytest.mark.parametrize(
    ("counts", "last"),
    [
        ([WAVE], []),
        ([WAVE + 1], YOUNGEST),
        ([9000], YOUNGEST),
        ([9000, 9000 + WAVE], []),
        ([9000, 9001 + WAVE], YOUNGEST),
        ([9000, 4501], []),
        ([9000, 4501, 9000], YOUNGEST),  # those that came back are others
        ([9000, 4499], ALL),
        ([9000, 0], ALL),
        ([9000, 0, 9000], YOUNGEST),
        ([WAVE + 1, 0], ALL),
        ([WAVE + 1, 1], []),
    ],
)
def test_waves_are_frozen_and_all_is_looked_at_when_most_have_gone(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], last: list[str]
) -> None:
    collector, freezer = Collector(), Freezer()
    monkeypatch.setattr(freezing, "gc", collector)
    for count in counts:
        collector.asked.clear()
        freezer.look(count)
    assert collector.asked == last
