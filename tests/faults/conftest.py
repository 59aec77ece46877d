"""What fault tests share: a Redis that keeps its word, of one version or of both, and chance, drawn from a seed that is told.

The promises hold as long as Redis keeps what it acknowledged. With `appendfsync everysec` a Redis that is killed may not: while an fsync
is under way it answers before it writes, for up to 2 s. With `no` each write is with the kernel before it is answered, and survives the
process. What is lost when power is, is nobody's business here.

    pytest tests/faults                                             the short form, on Redis 7.0
    pytest tests/faults --long                                      more agents, more tasks, more kills, on Redis 6.2 and 7.0
    pytest tests/faults --long --redis 7.0                          of these, those on Redis 7.0
    pytest tests/faults --long --redis none                         and those that ask for no version
    pytest tests/faults --long --report tests/faults/README.md      and the findings as a table; findings.py says how runs add up
    pytest tests/faults --long -n 2                                 in half the time: most of it is waiting
    pytest tests/faults --long -k soak --soak-hours 8               one cluster, for as long
    FAULT_SEED=7 pytest tests/faults/test_chaos.py                  the same chance again; the moments still differ
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.finding import Finding
from tests.support.redis_server import RedisServer, Version
from tests.support.said import Say


@pytest.hookimpl(tryfirst=True)  # a mark comes before the parameters of the fixture
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One version in the short form, unless the test says otherwise; both in the long one."""
    is_told = any("redis_version" in mark.args[:1] for mark in metafunc.definition.iter_markers("parametrize"))
    if "redis_version" in metafunc.fixturenames and not is_told:
        versions = ["6.2", "7.0"] if metafunc.config.getoption("--long") else ["7.0"]
        metafunc.definition.add_marker(
            pytest.mark.parametrize("redis_version", versions, indirect=True, scope="session")
        )


@pytest.fixture
def faithful_redis(redis_version: Version, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", version=redis_version, options=("--appendfsync", "no")) as server:
        yield server


@pytest.fixture
def seed(say: Say, finding: Finding) -> int:
    """FAULT_SEED, or another each time."""
    seed = int(os.environ.get("FAULT_SEED") or random.getrandbits(32))
    say(f"FAULT_SEED={seed}")
    finding.seed = str(seed)
    return seed


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)
