"""A Redis that is missing is noticed where it matters."""

from pathlib import Path

import pytest

from tests.support import required_redis
from tests.support.redis_server import RedisNotFoundError, Version


@pytest.fixture(autouse=True)
def _no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    def binary(version: Version) -> Path:
        raise RedisNotFoundError(version)

    monkeypatch.setattr(required_redis, "binary", binary)


def test_a_laptop_without_redis_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        required_redis.require_redis("7.0")


def test_ci_without_redis_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        required_redis.require_redis("7.0")
