"""The table of figures: what the cluster is measured by, and where it is to get. `reach` is the aim, `beyond` what its parts would allow.

Owns names, targets and how a figure is written. A ratio has the limit's unit beside it; the last rows are stated, and have no target.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from cluster.lab.bench.findings import Figure


class Row(NamedTuple):
    """One figure. `unit` is that of what was measured; `is_ratio`: the target is one of measured to limit."""

    key: str
    name: str
    unit: str
    reach: float | None = None
    beyond: float | None = None
    is_ratio: bool = True
    more_is_better: bool = False


ROWS: Final = (
    Row("frame", "CPU a message, frame in + ack out, without Redis / raw picows server with the same decoding", "us", 1.3, 1.0),
    Row("result", "CPU a durable result, node (frame in, script, ack out), full batches / the same without Redis", "us", 2.0, 1.4),
    Row("result_spread", "the same at 5,000/s spread over 2,000 agents (small batches)", "us", 60, 35, is_ratio=False),
    Row(
        "result_redis",
        "Redis CPU a durable result (dedupe, settle, progress, entry) / redis-benchmark XADD of the same entry, pipelined",
        "us", 4.5, 3,
    ),
    Row("log_line", "CPU a log line, one line a message (as real agents send them) / a durable result", "us", 0.9, 0.7),
    Row("log_lines", "CPU a log line, 20 lines a message, node / one line a message", "us", 0.25, 0.15),
    Row(
        "post",
        "CPU a single POSTed task, router, signed, durable, concurrent POSTs / bare raw-ASGI 200 under uvicorn",
        "us", 1.8, 1.0,
    ),
    Row("batch", "CPU a task through the batch call (100 tasks), router / bare raw-ASGI 200", "us", 0.15, 0.08),
    Row(
        "dispatch",
        "dispatch (POST -> agent) p50 at low load / bare XADD -> XREAD ping-pong p50, same kind of client on both sides",
        "us", 4, 2.5,
    ),
    Row("memory", "memory per idle agent, node (session and registry included)", "KiB", 5, 3, is_ratio=False),
    Row(
        "idle",
        "CPU per idle agent, heartbeat every 10 s, leases renewed / a raw picows server reading the same heartbeats",
        "us/s", 1.5, 1.15,
    ),
    Row("crowd", "CPU a message with 18,000 connected / with 1,000", "us", 1.2, 1.05),
    Row("stall", "longest event-loop stall under that load", "ms", 20, 5, is_ratio=False),
    Row(
        "connect", "connect (register + handshake + claim), agents/s of one node's CPU", "/s", 1500, 4000,
        is_ratio=False, more_is_better=True,
    ),
    Row("redis_open", "Redis memory per open task", "B", is_ratio=False),
    Row("redis_ended", "Redis memory per remembered ended task", "B", is_ratio=False),
    Row("redis_dedupe", "Redis memory per deduplicated message", "B", is_ratio=False),
)  # fmt: skip

HEADS: Final = ("figure", "measured", "limit", "ratio", "reach", "beyond", "")


def verdict(row: Row, figure: Figure) -> str:
    """How it stands to its targets: beyond, reached, missed; "" where there is none to stand to, or nothing that could be measured."""
    value = figure.ratio if row.is_ratio else figure.measured
    if value is None or value <= 0 or row.reach is None or row.beyond is None:
        return ""
    sign = -1 if row.more_is_better else 1
    if value * sign <= row.beyond * sign:
        return "beyond"
    return "reached" if value * sign <= row.reach * sign else "missed"


def cells(figures: Iterable[Figure]) -> list[tuple[str, ...]]:
    """The table's cells, row by row; figures that were not measured are left out."""
    found = {figure.key: figure for figure in figures}
    return [_cells(row, found[row.key]) for row in ROWS if row.key in found]


def _cells(row: Row, figure: Figure) -> tuple[str, ...]:
    sign = ">=" if row.more_is_better else "<="
    unit = "" if row.is_ratio else f" {row.unit}"
    limit = "missing" if row.is_ratio and figure.limit is None else text(figure.limit, row.unit)
    name = f"{row.name} ({figure.note})" if figure.note else row.name
    targets = [f"{sign} {_digits(target)}{unit}" if target is not None else "" for target in (row.reach, row.beyond)]
    return (name, text(figure.measured, row.unit), limit, text(figure.ratio, ""), *targets, verdict(row, figure))


def text(value: float | None, unit: str) -> str:
    """A number with three figures and its unit."""
    return "" if value is None else f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.1f}".rstrip("0").rstrip(".")
