"""The findings of a run, as a plugin of pytest: a `finding` for any test to fill in, and `--report FILE`, which writes them as a table.

Runs with `--report` add up, so that a version, a folder or one test may be run at a time: the rows are kept in pytest's cache, a test's
row is replaced by its next, and `--cache-clear` begins anew. The short and the long form have a page each. Tests that ask for no finding,
or fill in none, have no row.
"""

import faulthandler
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.faults.finding import Finding, Row
from tests.faults.report import page
from tests.support.said import Say

_ROW = "row"
_OUTCOME = pytest.StashKey[str]()
LONGEST_S = 1200.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="faults, machines, fuzz: the long form")
    parser.addoption(
        "--redis",
        metavar="VERSION",
        default="",
        help="only tests of this version of Redis; `none`: of no version in particular",
    )
    parser.addoption(
        "--report", metavar="FILE", help="write what was found as a table in Markdown, beside what earlier runs found"
    )
    parser.addoption("--soak-hours", type=float, default=0.05, metavar="H", help="faults: how long the soak test takes")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--redis")
    if wanted:
        config.hook.pytest_deselected(items=[item for item in items if (_redis(item) or "none") != wanted])
        items[:] = [item for item in items if (_redis(item) or "none") == wanted]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or (report.when == "setup" and not report.passed):
        is_expected = hasattr(report, "wasxfail")
        item.stash[_OUTCOME] = "expected to fail" if is_expected and not report.passed else report.outcome
    return report


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--report") and not hasattr(
        config, "workerinput"
    ):  # where tests share processes: in the one that hears of all
        config.pluginmanager.register(Keeper(config))


class Keeper:
    """Keeps the rows as tests end, and writes the page in the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._form = "long" if config.getoption("--long") else "short"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, row in report.user_properties if report.when == "teardown" else ():
            if name == _ROW:
                rows = {**self._kept(), report.nodeid: row}
                self._config.cache.set(f"findings/{self._form}", rows)

    def pytest_sessionfinish(self) -> None:
        rows = msgspec.convert(self._kept(), dict[str, Row]).values()
        command = f"pytest {' '.join(sys.argv[1:])}"
        text = page(rows, is_long=self._form == "long", command=command)
        Path(str(self._config.getoption("--report"))).write_text(text, encoding="utf-8")

    def _kept(self) -> dict[str, object]:
        found: dict[str, object] = self._config.cache.get(f"findings/{self._form}", {})
        return found


@pytest.fixture(autouse=True)
def _takes_its_time(request: pytest.FixtureRequest, is_long: bool) -> None:
    """A test of the long form hangs only after much longer than others; pytest ends the watch with the test."""
    if is_long and sys.__stderr__ is not None:
        longest_s = LONGEST_S + 3600 * float(request.config.getoption("--soak-hours"))
        faulthandler.dump_traceback_later(longest_s, exit=True, file=sys.__stderr__)


@pytest.fixture(scope="session")
def _commit() -> str:
    """What is tested, with a mark when it was changed since."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def finding(request: pytest.FixtureRequest, say: Say, _commit: str) -> Iterator[Finding]:
    """Of this test; told and kept when it has ended, however it did."""
    finding = Finding(say=say, test=request.node.nodeid, redis=_redis(request.node), commit=_commit)
    began_s = time.monotonic()
    yield finding
    finding.took_s = time.monotonic() - began_s
    finding.outcome = request.node.stash.get(_OUTCOME, "not finished")
    if finding.number:
        say(f"evidence: {finding}")
    if finding.number and finding.outcome != "skipped":
        request.node.user_properties.append((_ROW, msgspec.to_builtins(finding.row())))


def _redis(item: Any) -> str:
    """The version that a test is for; "" when it is for none in particular."""
    return str(getattr(getattr(item, "callspec", None), "params", {}).get("redis_version", ""))
