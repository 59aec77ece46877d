"""What is told of a run: the table of figures, medians, the page."""

from xml.etree import ElementTree as ET

import pytest

from cluster.lab.bench import figures, report
from cluster.lab.bench.charts import svg
from cluster.lab.bench.findings import Chart, Figure, Findings, medians
from cluster.lab.bench.scenarios import size
from cluster.lab.bench.scenarios.size import Wanted

BARS = Chart("CPU <a> & b", "us", ["node", "Redis"], {"first": [1.0, 2.0], "second": [0.0, 4.0]})
LINES = Chart("late", "ms", ["10%", "50%", "80%"], {"p50": [1.0, 2.0, 30.0]}, is_line=True)


def row(key: str) -> figures.Row:
    return next(row for row in figures.ROWS if row.key == key)


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (Figure("frame", 10, 10), "beyond"),
        (Figure("frame", 12, 10), "reached"),
        (Figure("frame", 14, 10), "missed"),
        (Figure("frame", 14), ""),  # the limit is missing
        (Figure("memory", 4), "reached"),
        (Figure("connect", 5000), "beyond"),
        (Figure("connect", 1500), "reached"),
        (Figure("connect", 200), "missed"),
        (Figure("redis_open", 200), ""),
        (Figure("idle", -3, 4), ""),  # less than could be measured
    ],
)
def test_a_figure_stands_somewhere_to_its_targets(figure: Figure, expected: str) -> None:
    assert figures.verdict(row(figure.key), figure) == expected


def test_a_limit_that_is_not_installed_is_said_to_be_missing() -> None:
    (cells,) = figures.cells([Figure("frame", 14)])
    assert cells[1:3] == ("14 us", "missing")


def test_figures_come_in_the_order_of_the_table() -> None:
    told = [cells[0] for cells in figures.cells([Figure("connect", 1), Figure("frame", 1, 1)])]
    assert told == [row("frame").name, row("connect").name]


def test_the_median_is_that_of_each_number() -> None:
    runs = []
    for value, limit in ((1, 1), (50, 10), (3, 1)):
        found = Findings("x")
        found.read("cpu", value, "us")
        found.figure("frame", value, limit)
        runs.append(found)
    middle = medians(runs)
    assert middle.value("cpu") == 3
    assert middle.figures == [Figure("frame", 3, 1)]


@pytest.mark.parametrize("chart", [BARS, LINES])
def test_a_chart_is_well_formed(chart: Chart) -> None:
    words = "".join(ET.fromstring(svg(chart)).itertext())  # noqa: S314 - of our own making
    assert chart.title in words
    assert all(label in words for label in (*chart.x, *(chart.series if len(chart.series) > 1 else ())))


def test_the_page_loads_nothing() -> None:
    found = Findings("results", charts=[BARS, LINES], notes=["said <beside> it"])
    found.read("CPU a message", 12.3, "us")
    found.figure("frame", 12, 10)
    page = report.page([found], {"cpu": "2 x <any>"}, "all, scale tiny", {"results": "durable & quick"})
    assert "http" not in page
    assert "src=" not in page
    assert "url(" not in page
    assert page.count("<svg") == 2
    assert '<td class="reached">reached</td>' in page
    assert "durable &amp; quick" in page
    assert "<any>" not in page


def measured() -> dict[str, Findings]:
    numbers = {
        "connect": {"memory an idle agent, node": 4.0, "Redis memory an agent": 1024.0},
        "idle": {"CPU an idle agent, node": 2.0, "CPU an idle agent, Redis": 1.0},
        "dispatch": {"CPU a POST, router": 300.0},
        "roundtrip": {"CPU a task and its end, node": 200.0, "CPU a task and its end, Redis": 200.0},
        "logs": {
            "CPU a line, node, one a message": 50.0, "CPU a line, Redis, one a message": 40.0, "Redis memory a line": 200.0,
            "Redis memory a deduplicated line": 10.0,
        },
        "batch": {
            "Redis memory an open task": 1300.0, "Redis memory an ended task": 1000.0,
            "Redis memory an entry of the results feed": 300.0, "Redis memory a deduplicated result": 20.0,
        },
    }  # fmt: skip
    found = {}
    for scenario, readings in numbers.items():
        found[scenario] = Findings(scenario)
        for name, value in readings.items():
            found[scenario].read(name, value, "")
    return found


def test_a_cluster_is_as_large_as_its_cpu_or_its_connections_ask() -> None:
    few = size.answer(Wanted(agents=1000, tasks_per_s=10, lines_per_s=10), measured())
    many = size.answer(Wanted(agents=40_000, tasks_per_s=10, lines_per_s=10), measured())
    busy = size.answer(Wanted(agents=1000, tasks_per_s=10, lines_per_s=30_000), measured())
    assert [found.value("nodes") for found in (few, many, busy)] == [1, 3, 3]
    assert busy.value("CPU of all nodes") == pytest.approx(100 * (0.002 + 0.002 + 1.5))
    assert "one Redis is not enough" in busy.notes[0]
    assert "one Redis will do" in few.notes[0]


def test_redis_is_planned_for_what_it_keeps() -> None:
    found = size.answer(Wanted(agents=0, tasks_per_s=1, lines_per_s=0), measured())
    ended = 25 * 3600 * 1000
    assert found.value("memory of Redis") == pytest.approx((ended + 60 * 1300 + 10_000 * 300 + 7200 * 20) / (1 << 20))
