"""The feed reader records every entry once, whatever becomes of Redis, and its group reads like Django's: everything, acking nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tests.support.eventually import eventually
from tests.support.feed_reader import FeedReader
from tests.support.recorder import Entry, GroupRead, Recorder
from tests.support.redis_server import RedisServer


@pytest.fixture
async def redis(killable_redis: RedisServer) -> AsyncIterator[Redis]:
    client = Redis.from_url(killable_redis.url, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
async def reader(killable_redis: RedisServer) -> AsyncIterator[FeedReader]:
    async with FeedReader(killable_redis.url, Recorder()) as running:
        yield running


@pytest.fixture
async def grouped(killable_redis: RedisServer) -> AsyncIterator[FeedReader]:
    async with FeedReader(killable_redis.url, Recorder(), group="django") as running:
        yield running


def entries_of(reader: FeedReader) -> list[tuple[str, dict[str, str]]]:
    return [(entry.feed, entry.fields) for entry in reader._recorder.of(Entry)]


def handed_to(reader: FeedReader) -> list[str]:
    return [read.entry_id for read in reader._recorder.of(GroupRead)]


async def add(redis: Redis, key: str, **fields: str) -> str:
    entry_id = await redis.xadd(key, fields)  # type: ignore[arg-type]
    assert isinstance(entry_id, bytes)
    return entry_id.decode()


async def test_it_reads_from_the_beginning_and_goes_on(redis: Redis, reader: FeedReader) -> None:
    await add(redis, "agent_results", task_id="t1")
    await reader.caught_up()
    await add(redis, "agent_logs", content="x" * 100)
    await add(redis, "agent_results", task_id="t2")
    await reader.caught_up()
    results = [fields for feed, fields in entries_of(reader) if feed == "results"]
    assert results == [{"task_id": "t1"}, {"task_id": "t2"}]
    [content] = [fields["content"] for feed, fields in entries_of(reader) if feed == "logs"]
    assert content.startswith("#100:")


async def test_it_reads_each_entry_once_across_a_restart(
    redis: Redis, reader: FeedReader, killable_redis: RedisServer
) -> None:
    for number in range(50):
        await add(redis, "agent_results", task_id=f"t{number}")
    killable_redis.restart()
    await redis.connection_pool.disconnect()
    for number in range(50, 100):
        await add(redis, "agent_results", task_id=f"t{number}")
    await reader.caught_up()
    assert [fields["task_id"] for _, fields in entries_of(reader)] == [f"t{number}" for number in range(100)]


async def test_it_reads_what_comes_after_a_flush(redis: Redis, reader: FeedReader) -> None:
    await add(redis, "agent_results", task_id="t1")
    await reader.caught_up()
    await redis.flushall()
    await add(redis, "agent_results", task_id="t2")
    await reader.caught_up()
    assert [fields["task_id"] for _, fields in entries_of(reader)] == ["t1", "t2"]


async def test_a_group_is_handed_everything_and_acks_nothing(redis: Redis, grouped: FeedReader) -> None:
    made = [await add(redis, "agent_results", task_id=f"t{number}") for number in range(20)]
    await grouped.caught_up()
    assert handed_to(grouped) == made
    pending = await redis.xpending("agent_results", "django")
    assert pending["pending"] == 20
    assert not grouped._recorder.of(Entry)


async def test_a_group_reads_its_own_pending_entries_first(redis: Redis, killable_redis: RedisServer) -> None:
    made = [await add(redis, "agent_results", task_id=f"t{number}") for number in range(20)]
    await redis.xgroup_create("agent_results", "django", "0")
    await redis.xreadgroup("django", "reader", {"agent_results": ">"}, count=10)  # a reply that was lost
    async with FeedReader(killable_redis.url, Recorder(), group="django") as grouped:
        await eventually(lambda: set(made) - set(handed_to(grouped)))


async def test_a_group_comes_back_after_a_flush(redis: Redis, grouped: FeedReader) -> None:
    await add(redis, "agent_results", task_id="t1")
    await grouped.caught_up()
    await redis.flushall()
    made = await add(redis, "agent_results", task_id="t2")
    await eventually(lambda: made not in handed_to(grouped))


async def test_it_says_what_is_behind(redis: Redis, killable_redis: RedisServer) -> None:
    idle = FeedReader(killable_redis.url, Recorder())
    made = await add(redis, "agent_results", task_id="t1")
    with pytest.raises(AssertionError, match=f"results at 0-0 of {made}"):
        await idle.caught_up(timeout_s=0.1)
    await idle.stop()
    await asyncio.sleep(0)
