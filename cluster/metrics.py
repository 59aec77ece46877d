"""What a process says of itself in numbers, for Prometheus.

Owns how metrics are named and told; knows no route, no Redis and no agent. Rules:

- Counting is an addition to a plain int. Prometheus reads the ints when it asks; nothing is kept for it.
- No global registry. Labels are `reason`, `type` or `outcome`, their values fixed when the counter is made: what a peer sends never
  becomes a label.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LABELS: Final = frozenset(("reason", "type", "outcome"))
_NAME = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")

log = logging.getLogger(__name__)


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
        self._counts: dict[str, tuple[str, Count]] = {}
        self._tallies: dict[str, tuple[str, str, dict[str, int]]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def count(self, name: str, meaning: str) -> Count:
        """A counter without labels."""
        self._claim(name)
        count = Count()
        self._counts[name] = (meaning, count)
        return count

    def tally(self, name: str, meaning: str, label: str, values: Iterable[str]) -> dict[str, int]:
        """A counter by one label: `dropped["not_json"] += 1`. A value that was not named here is a KeyError."""
        self._claim(name)
        if label not in LABELS:
            raise ValueError(f"label {label!r} is none of {sorted(LABELS)}")
        tally = dict.fromkeys(values, 0)
        self._tallies[name] = (meaning, label, tally)
        return tally

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A number that goes up and down, read when Prometheus asks; left out when `read` raises."""
        self._claim(name)
        self._gauges[name] = (meaning, read)

    def render(self) -> bytes:
        """Everything in Prometheus' text format; its type is CONTENT_TYPE."""
        return generate_latest(self._registry)

    @override
    def collect(self) -> Iterator[Metric]:
        for name, (meaning, count) in self._counts.items():
            yield CounterMetricFamily(self.PREFIX + name, meaning, value=count.value)
        for name, (meaning, label, tally) in self._tallies.items():
            family = CounterMetricFamily(self.PREFIX + name, meaning, labels=[label])
            for value, number in tally.items():
                family.add_metric([value], number)
            yield family
        for name, (meaning, read) in self._gauges.items():
            try:
                yield GaugeMetricFamily(self.PREFIX + name, meaning, value=read())
            except Exception:
                log.debug("the gauge %s cannot be read", name, exc_info=True)

    def _claim(self, name: str) -> None:
        if not _NAME.fullmatch(name) or name.startswith(self.PREFIX) or name.endswith("_total"):
            raise ValueError(f"metric name {name!r}: lower case, without {self.PREFIX} and _total, which are added")
        if name in self._counts or name in self._tallies or name in self._gauges:
            raise ValueError(f"metric {name!r} is there already")
