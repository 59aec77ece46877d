"""What every test may ask for: a real Redis of each version that we support, a key prefix of its own, the production's event loop.

`redis_server` is shared by the tests of a run and empty when a test gets it; nobody may stop, pause or configure it.
`killable_redis` belongs to one test, which may do anything to it. A test that needs one version only says so with
`@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)`.
`say` prints a line at the end of the run: what was measured, and how much was looked at where nothing was found.
The folder of a test decides its marker.
"""

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import uvloop

from tests.faults.finding import Finding
from tests.support.machines import Machines
from tests.support.redis_server import RedisServer, Version
from tests.support.required_redis import require_redis
from tests.support.said import Say, sayer, tell

pytest_plugins = ["tests.faults.findings", "tests.support.side_by_side"]
MARKERS = {"contract": "redis", "integration": "redis", "acceptance": "e2e", "faults": "fault", "bench": "bench"}

if not os.environ.get("CI"):  # in CI, Hypothesis chooses a profile of its own: the same examples each time, no deadline
    hypothesis.settings.register_profile("laptop", deadline=None)
    hypothesis.settings.load_profile("laptop")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        marker = MARKERS.get(item.path.relative_to(here).parts[0])
        if marker:
            item.add_marker(marker)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tell(terminalreporter)


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Say:
    return sayer(request.node)


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture
def machines(finding: Finding, is_long: bool) -> Machines:
    return Machines(finding, is_long=is_long)


@pytest.fixture(scope="session", params=["6.2", "7.0"], ids=lambda version: f"redis-{version}")
def redis_version(request: pytest.FixtureRequest) -> Version:
    version: Version = request.param
    require_redis(version)
    return version


@pytest.fixture(scope="session")
def shared_redis(redis_version: Version, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), version=redis_version) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    assert shared_redis.command("FLUSHALL") == b"+OK"  # feeds have no prefix; and this Redis is nobody's but ours
    return shared_redis


@pytest.fixture
def killable_redis(redis_version: Version, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", version=redis_version) as server:
        yield server


@pytest.fixture
def redis_prefix() -> str:
    return f"test-{uuid.uuid4().hex[:12]}:"
