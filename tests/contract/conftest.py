"""Clusters for the wire's tests, as fixtures: `gateway` is the one of the defaults, the others are named in clusters.py.

All tests of the folder share one event loop (`loop_scope="session"`), so that those of early.py go on while others run.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.contract import early
from tests.contract.clusters import Clusters
from tests.contract.gateway import Gateway
from tests.support.required_redis import require_redis

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What was begun early is judged last, of this folder's tests."""
    places = [place for place, item in enumerate(items) if item.path.is_relative_to(HERE)]
    ours = sorted((items[place] for place in places), key=lambda item: early.body_of(item) is not None)
    for place, item in zip(places, ours, strict=True):
        items[place] = item


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def clusters(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Clusters]:
    require_redis("7.0")
    async with Clusters(tmp_path_factory.mktemp("clusters")) as clusters:
        yield clusters


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def begun(clusters: Clusters, request: pytest.FixtureRequest) -> AsyncIterator[early.Begun]:
    await clusters.get("default")  # the first that is wanted
    tasks = early.begin(request.session.items, clusters)
    yield tasks
    await early.end(tasks.values())


@pytest.fixture(scope="session", autouse=True)
def _begin_early(request: pytest.FixtureRequest) -> None:
    if any(map(early.body_of, request.session.items)):
        request.getfixturevalue("begun")


def _gateway_to(name: str) -> Callable[..., Any]:
    @pytest_asyncio.fixture(name="gateway" if name == "default" else name, loop_scope="session")
    async def gateway(clusters: Clusters) -> AsyncIterator[Gateway]:
        async with clusters.gateway(name) as gateway:
            yield gateway

    return gateway


default = _gateway_to("default")
signed = _gateway_to("signed")
tuned = _gateway_to("tuned")
small = _gateway_to("small")
trampled = _gateway_to("trampled")
