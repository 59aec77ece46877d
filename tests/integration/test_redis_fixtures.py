"""A test gets the Redis it asked for, empty, and to itself where it means to harm it."""

import pytest

from tests.support.redis_server import RedisServer, Version


@pytest.mark.parametrize("round_", [1, 2])
def test_the_shared_redis_is_empty_for_each_test(redis_server: RedisServer, round_: int) -> None:
    assert redis_server.command("DBSIZE") == b":0"
    assert redis_server.command("SET", "left-behind", round_) == b"+OK"


def test_the_shared_redis_is_of_the_version_asked_for(redis_server: RedisServer, redis_version: Version) -> None:
    assert redis_server.version == redis_version


@pytest.mark.parametrize("redis_version", ["7.0"], indirect=True)
def test_a_test_may_ask_for_one_version(redis_server: RedisServer) -> None:
    assert redis_server.version == "7.0"


def test_a_killable_redis_comes_back_with_what_it_acknowledged(killable_redis: RedisServer) -> None:
    assert killable_redis.command("SET", "kept", 1) == b"+OK"
    killable_redis.restart()
    assert killable_redis.command("EXISTS", "kept") == b":1"
