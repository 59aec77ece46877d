"""Clusters for the acceptance tests: the real command line, as an operator starts it, in a folder of the test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cluster_process import ClusterProcess
from tests.support.required_redis import require_redis


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterProcess]:
    """Two nodes, a router and the Redis they bring, serving."""
    require_redis("6.2")
    async with ClusterProcess(tmp_path / "cluster") as cluster:
        await cluster.wait_ready(30.0)
        yield cluster
