"""The core on a real Redis of its own prefix; what a test needs beyond the defaults it asks `make_core` for."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.integration.core import Core
from tests.support.redis_server import RedisServer

MakeCore = Callable[..., Awaitable[Core]]


@pytest.fixture
async def make_core(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[MakeCore]:
    """Makes the rooms of a process, of the settings' sections that are given; all of a test share one prefix."""
    made: list[Core] = []

    async def make(**sections: object) -> Core:
        core = Core(redis_server.url, redis_prefix, **sections)  # type: ignore[arg-type]
        made.append(core)
        await core.start()
        return core

    yield make
    for core in made:
        await core.close()


@pytest.fixture
async def core(make_core: MakeCore) -> Core:
    """A process of the defaults."""
    return await make_core()


@pytest.fixture
async def killable_core(killable_redis: RedisServer, redis_prefix: str) -> AsyncIterator[Core]:
    """A process of the defaults on a Redis that the test may harm."""
    core = Core(killable_redis.url, redis_prefix)
    await core.start()
    yield core
    await core.close()
