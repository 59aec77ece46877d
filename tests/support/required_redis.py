"""What becomes of a test whose Redis is missing: on a laptop it skips, in CI it fails, so that nothing goes untested unseen."""

import os

import pytest

from tests.support.redis_server import RedisNotFoundError, Version, binary


def require_redis(version: Version) -> None:
    """Go on when this machine has such a Redis. Raises: pytest's Skipped, or Failed where CI is set."""
    try:
        binary(version)
    except RedisNotFoundError as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
