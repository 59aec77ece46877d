"""What a process says of itself: its log, and its numbers for Prometheus.

Owns where records go and how metrics are named; knows no route, no Redis and no agent. Rules:

- A process has a log file of its own: two never rotate each other's. Where no file can be written, records go to standard error.
- Counting is an addition to a plain int. Prometheus reads the ints when it asks; nothing is kept for it.
- No global registry. Labels are `reason`, `type` or `outcome`, their values fixed when the counter is made: what a peer sends never
  becomes a label.
"""

import asyncio
import contextlib
import logging
import logging.handlers
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TextIO

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from cluster.log_lines import LEVEL_NAMES, Fields, JsonLines, TextLines
from cluster.settings import Logging

PROGRAM: Final = "agent-server"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LABELS: Final = frozenset(("reason", "type", "outcome"))
_NAME = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")
_LEVELS: Final = {name: number for number, name in LEVEL_NAMES.items()}
_MB: Final = 1_000_000
_DAY_S: Final = 86_400
_HOUR_S: Final = 3_600

log = logging.getLogger(__name__)


def log_path(config: Logging, process: str = "") -> Path | None:
    """The log file of a process (`n1`, `r1`; "" is the launcher); None is standard error.

    | `logging.dir` | `logging.file` | launcher | node n1 |
    | --- | --- | --- | --- |
    | empty | empty | standard error | standard error |
    | empty | logs/server.log | logs/server.log | logs/server-n1.log |
    | /var/log | empty | /var/log/agent-server.log | /var/log/agent-server-n1.log |
    | /var/log | logs/server.log | /var/log/server.log | /var/log/server-n1.log |

    `dir` is the folder, `file` the name; `file` brings its own folder only where `dir` is empty. Relative to the working directory.
    """
    if not config.dir and not config.file:
        return None
    named = Path(config.file if Path(config.file).name else f"{PROGRAM}.log")
    folder = Path(config.dir) if config.dir else named.parent
    suffix = re.sub(r"[^A-Za-z0-9._-]", "_", f"-{process}") if process else ""
    return folder / f"{named.stem}{suffix}{named.suffix}"


def configure_logging(
    config: Logging, *, process: str = "", secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Sends every record of this process where `config` says, in place of what an earlier call set up.

    `secrets` (Settings.secrets()) never appear; `stream` takes the place of standard error.
    """
    fields = Fields(process or PROGRAM, secrets, report_caller=config.report_caller)
    formatter = JsonLines(fields) if config.format == "json" else TextLines(fields)
    handler, problem = _handler(config, process, stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for former in [one for one in root.handlers if isinstance(one, LogFile | StandardError)]:
        root.removeHandler(former)
        former.close()
    root.addHandler(handler)
    root.setLevel(_LEVELS[config.level])
    if problem:
        log.warning(problem)


def _handler(config: Logging, process: str, stream: TextIO | None) -> tuple[logging.Handler, str]:
    path = log_path(config, process)
    if path is None:
        return StandardError(stream), ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return LogFile(path, config.max_size * _MB, config.max_files, config.max_age * _DAY_S), ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return StandardError(
            stream
        ), f"the log file {str(path)!r} cannot be written ({reason}); logging to standard error"


class StandardError(logging.StreamHandler[TextIO]):
    """Records on standard error. A standard error that is gone ends nothing."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Nowhere is left to say it."""


class LogFile(logging.handlers.RotatingFileHandler):
    """A file that is rotated by size, and whose rotated files are dropped by number and age. What it cannot take goes to standard error."""

    RETRY_S: Final = 60.0  # after a rotation failed

    def __init__(self, path: Path, max_bytes: int, max_files: int, max_age_s: float) -> None:
        """Raises: OSError when it cannot be opened. `max_age_s` 0: no limit."""
        super().__init__(path, encoding="utf-8", errors="backslashreplace", backupCount=max_files)
        # A pipe or a device is never renamed.
        self.maxBytes = max_bytes if path.is_file() else 0
        self._max_age_s = max_age_s
        self._next_sweep_s = 0.0
        self._rotate_from_s = 0.0
        self.drop_old(time.time())

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.created >= self._next_sweep_s:
            self.drop_old(record.created)
        super().emit(record)

    @override
    def shouldRollover(self, record: logging.LogRecord) -> bool:
        # By what the file holds: the base class would format each record twice to know what it is going to hold.
        if not self.maxBytes or self.stream is None or record.created < self._rotate_from_s:
            return False
        return self.stream.tell() >= self.maxBytes

    @override
    def doRollover(self) -> None:
        try:
            super().doRollover()
        except OSError as error:
            self._rotate_from_s = time.time() + self.RETRY_S
            _say(f"{PROGRAM}: the log file {self.baseFilename} cannot be rotated: {error.strerror}")
        self.drop_old(time.time())

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        # What the file did not take is dropped with it, or it would come out again later; the next record opens it anew.
        broken, self.stream = self.stream, None
        with contextlib.suppress(OSError, ValueError):
            if broken is not None:
                broken.close()
        _say(self.format(record))

    def drop_old(self, now_s: float) -> None:
        """Removes rotated files whose last record is too old. Done hourly, and with each rotation."""
        self._next_sweep_s = now_s + _HOUR_S
        live = Path(self.baseFilename)
        with contextlib.suppress(OSError):
            for path in live.parent.iterdir() if self._max_age_s else ():
                is_rotated = path.name.startswith(f"{live.name}.") and path.name[len(live.name) + 1 :].isdigit()
                if is_rotated and path.stat().st_mtime < now_s - self._max_age_s:
                    path.unlink()


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(line + "\n")


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


class CpuShare:
    """How much of a CPU this process used since it was asked last, in percent."""

    def __init__(self) -> None:
        self._used_s, self._at_s = time.process_time(), time.monotonic()

    def read(self) -> int:
        """From the last reading to now."""
        used_s, at_s = time.process_time(), time.monotonic()
        share = (used_s - self._used_s) / max(at_s - self._at_s, 0.001)
        self._used_s, self._at_s = used_s, at_s
        return round(100 * share)


class LoopLag:
    """How late this process's event loop runs what is due: the worst of the last 10 to 20 s, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float = 0.25, window_s: float = 10.0) -> None:
        """Measures nothing until `start`."""
        self._loop = loop
        self._interval_s = interval_s
        self._window_s = window_s
        self._due_s = 0.0
        self._window_ends_s = 0.0
        self._worst_s = self._before_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to measure; from the loop's own thread."""
        self.stop()
        self._window_ends_s = self._loop.time() + self._window_s
        self._arm()

    def stop(self) -> None:
        """Ends it. Twice is fine."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def read(self) -> float:
        """For a gauge. Also counts a tick that is late and has not run yet."""
        late_s = self._loop.time() - self._due_s if self._timer is not None else 0.0
        return max(self._worst_s, self._before_s, late_s)

    def _arm(self) -> None:
        self._due_s = self._loop.time() + self._interval_s
        self._timer = self._loop.call_at(self._due_s, self._tick)

    def _tick(self) -> None:
        now_s = self._loop.time()
        if now_s >= self._window_ends_s:
            self._before_s, self._worst_s = self._worst_s, 0.0
            self._window_ends_s = now_s + self._window_s
        self._worst_s = max(self._worst_s, now_s - self._due_s)
        self._arm()
