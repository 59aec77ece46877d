"""What fault tests share: chance, drawn from a seed that is told, a Redis that keeps its word, and a finding to fill in.

The promises hold as long as Redis keeps what it acknowledged. With `appendfsync everysec` a Redis that is killed may not: while an fsync
is under way it answers before it writes, for up to 2 s. With `no` each write is with the kernel before it is answered, and survives the
process. What is lost when power is, is nobody's business here.

    pytest tests/faults                                             the short form, on Redis 7.0
    pytest tests/faults --long                                      more agents, more tasks, more kills, on Redis 6.2 and 7.0
    pytest tests/faults --long --report tests/faults/README.md      and the findings as a table
    pytest tests/faults --long -k soak --soak-hours 8               one cluster, for as long
    FAULT_SEED=7 pytest tests/faults/test_chaos.py                  the same chance again; the moments still differ
"""

import faulthandler
import os
import random
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults.finding import Finding
from tests.faults.report import page
from tests.support.redis_server import RedisServer, Version
from tests.support.said import Say

_FINDINGS = pytest.StashKey[list[Finding]]()
_OUTCOME = pytest.StashKey[str]()
LONGEST_S = 1200.0


@pytest.hookimpl(tryfirst=True)  # a mark comes before the parameters of the fixture
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One version in the short form, unless the test says otherwise; both in the long one."""
    is_told = any("redis_version" in mark.args[:1] for mark in metafunc.definition.iter_markers("parametrize"))
    if "redis_version" in metafunc.fixturenames and not is_told:
        versions = ["6.2", "7.0"] if metafunc.config.getoption("--long") else ["7.0"]
        metafunc.definition.add_marker(
            pytest.mark.parametrize("redis_version", versions, indirect=True, scope="session")
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or (report.when == "setup" and not report.passed):
        is_expected = hasattr(report, "wasxfail")
        item.stash[_OUTCOME] = "expected to fail" if is_expected and not report.passed else report.outcome
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("--report")
    findings = session.config.stash.get(_FINDINGS, [])
    if target and findings:
        command = f"pytest {' '.join(sys.argv[1:])}"
        is_long = bool(session.config.getoption("--long"))
        Path(str(target)).write_text(page(findings, is_long=is_long, command=command), encoding="utf-8")


@pytest.fixture(autouse=True)
def _takes_its_time(request: pytest.FixtureRequest, is_long: bool) -> None:
    """A test of the long form hangs only after much longer than others; pytest ends the watch with the test."""
    if is_long and sys.__stderr__ is not None:
        longest_s = LONGEST_S + 3600 * float(request.config.getoption("--soak-hours"))
        faulthandler.dump_traceback_later(longest_s, exit=True, file=sys.__stderr__)


@pytest.fixture
def faithful_redis(redis_version: Version, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", version=redis_version, options=("--appendfsync", "no")) as server:
        yield server


@pytest.fixture
def seed(say: Say) -> int:
    """FAULT_SEED, or another each time."""
    seed = int(os.environ.get("FAULT_SEED") or random.getrandbits(32))
    say(f"FAULT_SEED={seed}")
    return seed


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def finding(request: pytest.FixtureRequest, say: Say) -> Iterator[Finding]:
    """Of this test; told when it has ended, however it did."""
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    finding = Finding(say, request.node.name, redis=str(params.get("redis_version", "")))
    request.config.stash.setdefault(_FINDINGS, []).append(finding)
    began_s = time.monotonic()
    yield finding
    finding.took_s = time.monotonic() - began_s
    finding.outcome = request.node.stash.get(_OUTCOME, "not finished")
    say(f"evidence: {finding}")
