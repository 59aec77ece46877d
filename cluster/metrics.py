"""What a process says of itself in numbers, for Prometheus.

Owns how metrics are named and told; knows no route, no Redis and no agent. What is told is chosen in node/figures.py, router/figures.py and
cluster/figures.py. Rules:

- Counting is an addition to a plain int, a latency one more search in a short tuple. Prometheus reads them when it asks; nothing is kept for it.
- No global registry. Labels are those of LABELS, their values fixed when the metric is made: what a peer sends never becomes a label.
- Names are lower case, with a base unit (`_seconds`, `_bytes`) where they have one.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from typing_extensions import override

from cluster.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LABELS: Final = frozenset(("reason", "type", "outcome", "state", "feed"))
_NAME = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")

log = logging.getLogger(__name__)
Read = Callable[[], float]
Values = tuple[str, ...]  # of the labels


class Count:
    """A number that only grows: `acks.value += 1`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        """From zero."""
        self.value = 0


class Counters(Collector):
    """The numbers of one process, and their text for Prometheus. Names get the prefix `agent_server_`, counters the suffix `_total`."""

    PREFIX: Final = "agent_server_"

    def __init__(self) -> None:
        """Empty; with a registry of its own."""
        self._families: dict[str, Callable[[], Metric]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    # ---- what counts by itself

    def count(self, name: str, meaning: str) -> Count:
        """A counter without labels."""
        count = Count()
        self.counted(name, meaning, lambda: count.value)
        return count

    def tally(self, name: str, meaning: str, label: str, values: Iterable[str]) -> dict[str, int]:
        """A counter by one label: `dropped["not_json"] += 1`. A value that was not named here is a KeyError."""
        tally = dict.fromkeys(values, 0)
        self.renamed(name, meaning, label, tally, dict(zip(tally, tally, strict=True)))
        return tally

    # ---- what is counted elsewhere

    def counted(self, name: str, meaning: str, read: Read) -> None:
        """A counter without labels, kept elsewhere."""
        self._add(name, lambda: CounterMetricFamily(self.PREFIX + name, meaning, value=read()))

    def renamed(self, name: str, meaning: str, label: str, tally: Mapping[str, int], keys: Mapping[str, str]) -> None:
        """A counter by one label, kept elsewhere. `keys`: the label's values, and as what each is kept."""
        self.counters(name, meaning, (label,), lambda: {(value,): tally[key] for value, key in keys.items()})

    def counters(
        self, name: str, meaning: str, labels: Sequence[str], read: Callable[[], Mapping[Values, int]]
    ) -> None:
        """A counter by several labels, kept elsewhere. `read` always names the same values."""
        self._check(labels)
        self._add(name, lambda: _filled(CounterMetricFamily(self.PREFIX + name, meaning, labels=labels), read()))

    def histograms(
        self, name: str, meaning: str, labels: Sequence[str], histograms: Mapping[Values, Histogram]
    ) -> None:
        """Histograms, kept elsewhere, by the values of their labels."""
        self._check(labels)

        def family() -> Metric:
            found = HistogramMetricFamily(self.PREFIX + name, meaning, labels=labels)
            for values, one in histograms.items():
                found.add_metric(values, one.buckets(), one.total)
            return found

        self._add(name, family)

    # ---- what goes up and down

    def gauge(self, name: str, meaning: str, read: Read) -> None:
        """A number that goes up and down, read when Prometheus asks; left out when `read` raises."""
        self._add(name, lambda: GaugeMetricFamily(self.PREFIX + name, meaning, value=read()))

    def gauges(self, name: str, meaning: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Such numbers by one label. A value that `read` leaves out is not known just now."""
        self._check((label,))
        self._add(
            name,
            lambda: _filled(
                GaugeMetricFamily(self.PREFIX + name, meaning, labels=(label,)),
                {(value,): number for value, number in read().items()},
            ),
        )

    def info(self, name: str, meaning: str, facts: Mapping[str, str]) -> None:
        """What does not change while the process runs, as labels of a constant 1."""
        self._add(name, lambda: InfoMetricFamily(self.PREFIX + name, meaning, value=dict(facts)))

    def of_this_process(self) -> None:
        """What the kernel knows of it: CPU, memory, open files, and since when it runs."""
        ProcessCollector(namespace=self.PREFIX.rstrip("_"), registry=self._registry)

    # ---- telling

    def render(self) -> bytes:
        """Everything in Prometheus' text format; its type is CONTENT_TYPE."""
        return generate_latest(self._registry)

    @override
    def collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            try:
                yield family()
            except Exception:
                log.debug("the metric %s cannot be read", name, exc_info=True)

    def _add(self, name: str, family: Callable[[], Metric]) -> None:
        if not _NAME.fullmatch(name) or name.startswith(self.PREFIX) or name.endswith(("_total", "_info")):
            raise ValueError(
                f"metric name {name!r}: lower case, without {self.PREFIX}, _total and _info, which are added"
            )
        if name in self._families:
            raise ValueError(f"metric {name!r} is there already")
        self._families[name] = family

    @staticmethod
    def _check(labels: Sequence[str]) -> None:
        if not LABELS.issuperset(labels):
            raise ValueError(f"a label of {labels} is none of {sorted(LABELS)}")


def _filled(family: CounterMetricFamily | GaugeMetricFamily, numbers: Mapping[Values, float]) -> Metric:
    for values, number in numbers.items():
        family.add_metric(values, number)
    return family
