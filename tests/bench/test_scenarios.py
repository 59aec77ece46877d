"""Each scenario, tiny: it runs, nothing is lost, and all figures are there. What they come to is not asserted: the load is too small, the machine shared."""

import math

import pytest

from cluster.lab.bench import figures, limits
from cluster.lab.bench.findings import Figure, Findings
from cluster.lab.bench.run import SCENARIOS
from cluster.lab.bench.sizes import SIZES
from tests.support.required_redis import require_redis

pytestmark = pytest.mark.bench

FIGURES = {
    "connect": {"memory", "connect"},
    "idle": {"idle", "crowd", "stall"},
    "results": {"frame", "result", "result_spread", "result_redis"},
    "logs": {"log_line", "log_lines"},
    "dispatch": {"post", "dispatch"},
    "roundtrip": set[str](),
    "batch": {"batch", "redis_open", "redis_ended", "redis_dedupe"},
    "storm": set[str](),
    "scale": set[str](),
}
LOST = ("lost", "not acked", "without an end", "refused at saturation", "calls refused")
IS_POSITIVE = ("CPU a ", "/s", "POST -> ", "XADD", "back, ")


async def measured(name: str) -> Findings:
    require_redis("6.2")
    steps: list[str] = []
    found = await SCENARIOS[name].run(SIZES["tiny"], steps.append)
    assert len(steps) <= SCENARIOS[name].steps, "the bar would be full too early"
    return found


def is_told_well(figure: Figure) -> bool:
    """A ratio has its limit beside it."""
    row = next(row for row in figures.ROWS if row.key == figure.key)
    return not row.is_ratio or figure.limit is not None


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_scenario_measures_its_figures_and_loses_nothing(name: str) -> None:
    found = await measured(name)
    assert found.scenario == name
    assert {figure.key for figure in found.figures} == FIGURES[name]
    assert found.charts
    for reading in found.readings:
        assert math.isfinite(reading.value), reading
        if any(word in reading.name for word in LOST):
            assert reading.value == 0, reading
        elif reading.name.startswith(IS_POSITIVE):
            assert reading.value > 0, reading
    if limits.has_picows():
        assert all(map(is_told_well, found.figures))


def test_every_figure_of_the_table_is_measured_by_one_scenario() -> None:
    told = [key for keys in FIGURES.values() for key in keys]
    assert sorted(told) == sorted(row.key for row in figures.ROWS)
    assert FIGURES.keys() == SCENARIOS.keys()
