"""How often something took how long, in buckets that are fixed when it is made. Knows nothing of who reads it.

An observation is one search in a short tuple and two additions; what took equally long is one observation.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

LATENCIES_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """How often something took how long."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCIES_S) -> None:
        """`bounds`: the largest value of each bucket, ascending; beyond them is one more."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """It took so long, so often."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Prometheus' form: (the largest value, how many had at most that)."""
        largest = [*(str(bound) for bound in self.bounds), "+Inf"]
        return list(zip(largest, map(float, accumulate(self.counts)), strict=True))
