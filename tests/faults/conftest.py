"""What fault tests share: chance, drawn from a seed that is told, and a Redis that keeps its word.

The promises hold as long as Redis keeps what it acknowledged. With `appendfsync everysec` a Redis that is killed may not: while an fsync
is under way it answers before it writes, for up to 2 s. With `no` each write is with the kernel before it is answered, and survives the
process. What is lost when power is, is nobody's business here.

    pytest tests/faults                                             the short form, two minutes
    pytest tests/faults --long -o faulthandler_timeout=900          more agents, more tasks, more kills
    FAULT_SEED=7 pytest tests/faults/test_chaos.py                  the same chance again; the moments still differ
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer, Version
from tests.support.said import Say


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
