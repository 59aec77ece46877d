"""What one piece of load came to: how often, how long, and how late. Travels from the processes that make load to the one that measures."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct


class Tally(Struct):
    """`done` and `failed` are counted by the client; latencies run from the time at which a call was due, in us."""

    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    latencies_us: list[int] = msgspec.field(default_factory=list)
    ids: list[str] = msgspec.field(default_factory=list)

    @property
    def per_s(self) -> float:
        """How many a second."""
        return self.done / self.seconds if self.seconds else 0.0

    def percentile_ms(self, share: float) -> float:
        """The latency that this share of all calls kept to, in ms; 0 without any."""
        return percentile(self.latencies_us, share) / 1000


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all keeps to; 0 without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def together(tallies: Iterable[Tally]) -> Tally:
    """The sum of what went on at the same time."""
    whole = Tally()
    for tally in tallies:
        whole.done += tally.done
        whole.failed += tally.failed
        whole.seconds = max(whole.seconds, tally.seconds)
        whole.latencies_us += tally.latencies_us
        whole.ids += tally.ids
    return whole
