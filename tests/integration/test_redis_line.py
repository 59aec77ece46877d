"""The shared connection: every caller gets its own replies, in time, whatever happens to the others and to the connection."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoReply

from cluster.redis_line import RedisLine
from tests.integration.scripted_redis import OK, bulk, scripted_redis
from tests.support.redis_server import RedisServer

TIMEOUT_S = 1.0


def line_to(url: str, timeout_s: float = TIMEOUT_S) -> RedisLine:
    pool = ConnectionPool.from_url(url, protocol=2, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
    return RedisLine(pool, timeout_s)


@pytest.fixture
async def line(redis_server: RedisServer) -> AsyncIterator[RedisLine]:
    line = line_to(redis_server.url)
    yield line
    await line.close()


async def test_each_of_many_callers_gets_its_own_replies(line: RedisLine) -> None:
    asked = [line.ask(("ECHO", f"{n}"), ("ECHO", f"{n}-again")) for n in range(2000)]
    replies = await asyncio.gather(*asked)
    assert replies == [[b"%d" % n, b"%d-again" % n] for n in range(2000)]


async def test_an_error_is_its_callers_alone(line: RedisLine) -> None:
    fine = asyncio.create_task(line.ask(("ECHO", "a")))
    wrong = asyncio.create_task(line.ask(("ECHO", "b"), ("NONSENSE",)))
    behind = asyncio.create_task(line.ask(("ECHO", "c")))
    with pytest.raises(ResponseError):
        await wrong
    assert [await fine, await behind] == [[b"a"], [b"c"]]


async def test_who_was_cancelled_shifts_nobodys_replies(line: RedisLine) -> None:
    leaving = [asyncio.create_task(line.ask(("ECHO", f"gone {n}"))) for n in range(100)]
    staying = [asyncio.create_task(line.ask(("ECHO", f"{n}"))) for n in range(100)]
    await asyncio.sleep(0)
    for task in leaving[::2]:
        task.cancel()
    await asyncio.sleep(0)
    for task in leaving[1::2]:
        task.cancel()
    assert await asyncio.gather(*staying) == [[b"%d" % n] for n in range(100)]


async def test_a_large_reply_comes_whole(line: RedisLine) -> None:
    text = b"x" * (8 << 20)
    asked = [line.ask(("ECHO", word)) for word in (text, b"y")]
    assert await asyncio.gather(*asked) == [[text], [b"y"]]


async def test_what_was_not_answered_is_asked_once_more_over_a_new_connection() -> None:
    answers = iter([None, OK])
    async with scripted_redis(lambda _: next(answers)) as scripted:
        line = line_to(scripted.url)
        assert await line.ask(("PING",)) == [b"OK"]
        assert scripted.commands == [b"PING", b"PING"]
        await line.close()


async def test_what_is_not_to_be_sent_twice_is_not() -> None:
    async with scripted_redis(lambda _: None) as scripted:
        line = line_to(scripted.url)
        with pytest.raises(BrokenConnection):
            await line.ask(("XADD",), may_repeat=False)
        assert scripted.commands == [b"XADD"]
        await line.close()


async def test_nothing_is_asked_a_third_time() -> None:
    async with scripted_redis(lambda _: None) as scripted:
        line = line_to(scripted.url)
        with pytest.raises(BrokenConnection):
            await line.ask(("PING",))
        assert scripted.commands == [b"PING", b"PING"]
        await line.close()


async def test_half_an_answer_is_none() -> None:
    """The connection broke between two replies: both commands are asked again."""
    said: list[bytes] = []

    def answer(words: list[bytes]) -> bytes | None:
        said.append(words[0])
        return None if len(said) == 2 else bulk(f"{len(said)}")

    async with scripted_redis(answer) as scripted:
        line = line_to(scripted.url)
        assert await line.ask(("A",), ("B",)) == [b"3", b"4"]
        assert said == [b"A", b"B", b"A", b"B"]
        await line.close()


async def test_a_redis_that_hangs_is_told_of_in_time_and_found_again(killable_redis: RedisServer) -> None:
    line = line_to(killable_redis.url)
    await line.ask(("PING",))
    killable_redis.pause()
    started = time.monotonic()
    outcomes = await asyncio.gather(*(line.ask(("PING",)) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(outcome, NoReply) for outcome in outcomes), outcomes
    assert TIMEOUT_S * 0.9 < time.monotonic() - started < TIMEOUT_S * 2
    with pytest.raises(NoReply):  # nor does a new connection get an answer
        await line.ask(("PING",))
    killable_redis.resume()
    assert await line.ask(("PING",)) == [b"PONG"]
    await line.close()


async def test_a_redis_that_is_down_is_told_of_at_once(killable_redis: RedisServer) -> None:
    line = line_to(killable_redis.url, timeout_s=60)
    await line.ask(("PING",))
    killable_redis.kill()
    with pytest.raises((BrokenConnection, OSError)):
        await line.ask(("PING",))
    killable_redis.start()
    assert await line.ask(("PING",)) == [b"PONG"]
    await line.close()


async def test_closing_tells_who_waits_for_a_connection() -> None:
    reached = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        line = line_to(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", timeout_s=60)
        waiting = asyncio.create_task(line.ask(("PING",)))
        await reached.wait()
        async with asyncio.timeout(5):
            await line.close()
        with pytest.raises(BrokenConnection):
            await waiting


async def test_no_command_is_answered_at_once_and_holds_up_nobody(line: RedisLine) -> None:
    assert await line.ask() == []
    assert await line.ask(("PING",)) == [b"PONG"]


async def test_errors_behind_what_a_caller_minds_are_not_raised(line: RedisLine) -> None:
    first, error = await line.ask(("ECHO", "a"), ("NONSENSE",), minded=1)
    assert (first, isinstance(error, ResponseError)) == (b"a", True)
    with pytest.raises(ResponseError):
        await line.ask(("NONSENSE",), ("ECHO", "a"), minded=1)
