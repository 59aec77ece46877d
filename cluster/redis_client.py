"""The way to Redis: connections, scripts, and what can go wrong with them.

Owns the clients and the translation of driver errors; knows no key but `meta`, and nothing of agents or tasks. Rules:

- A request that cannot be answered within `REQUEST_TIMEOUT_S` fails with `StoreUnavailable`; callers decide whether to try again.
- Scripts and other short commands share one connection (cluster/redis_line.py); rare and long ones go through a pool of redis-py.
- A connection that broke is replaced once per request, as running a script twice is harmless; what is not so is sent once. No reply
  within the timeout is never asked for again.
- READONLY, LOADING and MASTERDOWN mean that Redis is failing over: connections are dropped, the next call finds the new primary.
- The blocking reader and the readiness probe have connections of their own: a full pool must not look like a dead Redis.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as BrokenConnection

from cluster import scripts, settings
from cluster.errors import FeedBlocked, StartError, StoreAway, StoreUnavailable
from cluster.histogram import Histogram
from cluster.keys import SCHEMA, Keys
from cluster.redis_errors import DRIVER_ERRORS, REASONS, away
from cluster.redis_line import Command, RedisLine, Word

REQUEST_TIMEOUT_S = 2.0  # a control-plane call must end within 3 s
PROBE_TIMEOUT_S = 0.3
BLOCK_MS = 1000  # of the blocking reader; its socket waits longer
LOWEST_VERSION = (6, 2)
RETRY_AFTER_S = 2  # what callers are told
SAY_AGAIN_S = 10.0  # between complaints about one feed
KEYLESS_S = 2.0  # two beats: for so long somebody may put back the key of agent ids, before another makes one

logger = logging.getLogger(__name__)


class StreamEntry(NamedTuple):
    """An entry of a stream, as it was read."""

    stream: str
    id: str
    fields: dict[bytes, bytes]


Errors = dict[str, int]  # by REASONS
Client = Any  # a Redis client; redis-py's own types leave open whether replies are bytes, and ours are


def url_of(config: settings.Redis) -> str:
    """The address of Redis as a URL, with its credentials: never log it."""
    if config.url:
        return config.url
    secret = f":{quote(config.password, safe='')}@" if config.password else ""
    return f"redis://{secret}{config.addr}/{config.db}"


def _pool(url: str, size: int, timeout_s: float, retries: int = 0, wait_s: float = REQUEST_TIMEOUT_S) -> ConnectionPool:
    return BlockingConnectionPool.from_url(
        url,
        max_connections=size,
        timeout=min(wait_s, timeout_s),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), retries, supported_errors=(BrokenConnection,)),  # no reply is not asked for again
        protocol=2,
        driver_info=None,  # telling its name would cost a round trip before the first command
        health_check_interval=0,
    )


@contextlib.asynccontextmanager
async def translated(pool: ConnectionPool | None = None, errors: Errors | None = None) -> AsyncIterator[None]:
    """Turns the driver's errors into `StoreUnavailable`; our own mistakes stay what they are. `errors` counts them.

    A cancellation is never lost in it.
    """
    with _cancellation_kept():
        async with _translated(pool, errors):
            yield


@contextlib.contextmanager
def _cancellation_kept() -> Iterator[None]:
    """The driver sends under `wait_for`, which drops a cancellation that meets the end of the send (until Python 3.12): it is raised here.

    Without this, a loop that follows a feed would go on for ever.
    """
    task = asyncio.current_task()
    asked_before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > asked_before:
            raise asyncio.CancelledError


@contextlib.asynccontextmanager
async def _translated(pool: ConnectionPool | None, errors: Errors | None) -> AsyncIterator[None]:
    try:
        yield
    except DRIVER_ERRORS as error:
        told = away(error)
        if told is None:
            raise
        if errors is not None:
            errors[told.reason] += 1
        if pool is not None and told.is_moving:
            with contextlib.suppress(RedisError, OSError):
                await pool.disconnect(inuse_connections=False)
        raise StoreUnavailable(told.text) from error


_ONCE = frozenset(("resume", "revoke", "forget", "tell"))  # scripts whose second run does not answer as the first


class Store:
    """One process's connections to Redis, and its scripts."""

    def __init__(self, config: settings.Redis, shards: int = 1) -> None:
        self.keys = Keys(config.prefix, shards or 1)
        self._id_key = b""
        self._keyless_since_s: float | None = None
        url = url_of(config)
        self._client: Client = Redis.from_pool(
            _pool(url, config.pool_size, REQUEST_TIMEOUT_S, 1, config.wait_timeout_s)
        )
        self._probe: Client = Redis.from_pool(_pool(url, 1, PROBE_TIMEOUT_S))
        entry = _pool(url, 1, REQUEST_TIMEOUT_S)
        self._line = RedisLine(entry, REQUEST_TIMEOUT_S)
        self._waiting_line = RedisLine(entry, BLOCK_MS / 1000 + REQUEST_TIMEOUT_S)
        self._shas: dict[str, str] = {}
        self._clock_offset_ms = 0
        self._complain_at_s: dict[str, float] = {}
        self.round_trips = Histogram()  # of `sync_clock`: once or twice a second
        self.errors: Errors = dict.fromkeys(REASONS, 0)

    @property
    def id_key(self) -> bytes:
        """The key of agent ids. Raises: StoreUnavailable before it was agreed on."""
        if not self._id_key:
            raise StoreUnavailable("no key of agent ids is agreed on yet")
        return self._id_key

    def now_ms(self) -> int:
        """The time on Redis's clock, as of the last `sync_clock`: the one clock that all processes agree on."""
        return time.time_ns() // 1_000_000 + self._clock_offset_ms

    @property
    def clock_ahead_ms(self) -> int:
        """How far this machine's clock is ahead of Redis's, as of the last `sync_clock`."""
        return -self._clock_offset_ms

    async def sync_clock(self) -> float:
        """Reads Redis's clock; returns the round trip in s. Raises: StoreUnavailable.

        A key is looked at too: while it loads its data, Redis tells the time and answers nothing else.
        """
        started = time.monotonic()
        async with self.session() as client:
            pipe = client.pipeline(transaction=False)
            (seconds, micros), _ = await pipe.time().exists(self.keys.meta).execute()
        round_trip_s = time.monotonic() - started
        self.round_trips.observe(round_trip_s)
        at_ms = int(seconds) * 1000 + int(micros) // 1000 + int(round_trip_s * 500)
        self._clock_offset_ms = at_ms - time.time_ns() // 1_000_000
        return round_trip_s

    async def close(self) -> None:
        """Drops all connections."""
        for line in (self._line, self._waiting_line):
            await line.close()
        for client in (self._client, self._probe):
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()

    async def run(self, name: str, keys: Sequence[str], *args: Word, behind: Sequence[Command] = ()) -> Any:
        """Runs a script. Raises: StoreUnavailable; it may have been done all the same.

        `behind`: further commands, in the same go; they are done right behind it, and perhaps once more before it. Nobody hears whether.
        """
        may_repeat = name not in _ONCE
        call = len(keys), *keys, *args
        sha = self._shas.get(name)
        if sha is not None:
            with contextlib.suppress(NoScriptError):  # Redis was restarted, or its scripts were flushed
                return (await self.ask(("EVALSHA", sha, *call), *behind, may_repeat=may_repeat, minded=1))[0]
        text = scripts.text(name)  # the first time at once: asking whether Redis knows it would cost a round trip
        self._shas[name] = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()  # what Redis calls it
        return (await self.ask(("EVAL", text, *call), *behind, may_repeat=may_repeat, minded=1))[0]

    def ask(
        self, *commands: Command, may_repeat: bool = True, minded: int | None = None
    ) -> Coroutine[Any, Any, list[Any]]:
        """The raw replies to short commands, sent in one go. Raises: StoreUnavailable; it may have been done all the same.

        `minded`: of how many replies, from the first, errors are raised; None = of all.
        """
        return self._asked(self._line, commands, may_repeat=may_repeat, minded=minded)

    async def _asked(
        self, line: RedisLine, commands: Sequence[Command], *, may_repeat: bool, minded: int | None = None
    ) -> list[Any]:
        try:
            return await line.ask(*commands, may_repeat=may_repeat, minded=minded)
        except DRIVER_ERRORS as error:
            told = away(error)
            if told is None:
                raise
            self.errors[told.reason] += 1
            if told.is_moving:
                line.drop()
            raise StoreUnavailable(told.text) from error

    async def read_streams(self, after: Mapping[str, str], count: int, block_ms: int) -> list[StreamEntry]:
        """What came into streams behind these ids; waits `block_ms`, at most `BLOCK_MS`, for it. Raises: StoreUnavailable."""
        command: Command = (
            "XREAD",
            "COUNT",
            count,
            "BLOCK",
            min(block_ms, BLOCK_MS),
            "STREAMS",
            *after,
            *after.values(),
        )
        [reply] = await self._asked(self._waiting_line, [command], may_repeat=True)
        return [
            StreamEntry(stream.decode(), entry_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True)))
            for stream, entries in reply or ()
            for entry_id, flat in entries
        ]

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Client]:
        """The client for what is rare or long, with its errors translated. Raises: StoreUnavailable."""
        async with translated(self._client.connection_pool, self.errors):
            yield self._client

    @staticmethod
    @contextlib.contextmanager
    def missing_is_normal() -> Iterator[None]:
        """Passes over the error that a stream or a group is not there: feeds are not ours alone."""
        try:
            yield
        except ResponseError as error:
            if not any(word in str(error) for word in ("no such key", "NOGROUP")):
                raise

    @contextlib.contextmanager
    def of_feed(self, feed: str) -> Iterator[None]:
        """Turns the error that a feed is no stream into `FeedBlocked`: feeds are not ours alone, and whoever did it can undo it."""
        try:
            yield
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            self._complain(feed)
            raise FeedBlocked(f"{feed} is not a stream") from error

    def _complain(self, feed: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._complain_at_s.get(feed, now_s):
            self._complain_at_s[feed] = now_s + SAY_AGAIN_S
            logger.error(
                "%s in Redis is not a stream, or a key beside it (%s) is of another type: what belongs there waits, unacked, until that"
                " key is gone",
                feed,
                self.keys.of_feed(feed, "..."),
            )

    async def trouble(self) -> str:
        """Why Redis does not answer within the probe's short timeout; "" when it does."""
        try:
            async with translated(), asyncio.timeout(PROBE_TIMEOUT_S):
                await self._probe.ping()
        except (StoreUnavailable, ResponseError) as error:
            return str(error)
        return ""

    async def agree(self) -> None:
        """Writes or checks what all processes must agree on: schema, shards, the key of agent ids. To be called every second.

        Who knows the key puts it back into a Redis that came back empty. Who does not makes one only when nobody has done so for
        `KEYLESS_S`: under another key every agent would get another id.

        Raises: StartError when this Redis belongs to a cluster of another shape; StoreUnavailable.
        """
        known, since_s = self._id_key.hex(), self._keyless_since_s
        self._keyless_since_s = None  # a Redis that does not answer shows nothing
        if not known and since_s is not None and time.monotonic() - since_s >= KEYLESS_S:
            known = secrets.token_hex(32)
        wanted = {"schema": SCHEMA, "shards": str(self.keys.shards), "id_key": known}
        async with self.session() as client:
            found = await client.hmget(self.keys.meta, list(wanted))
            if [name for name, value in zip(wanted, found, strict=True) if wanted[name] and value is None]:
                found = await self._put_back(client, wanted)
        schema, shards, id_key = (bytes(value or b"").decode() for value in found)
        if schema != SCHEMA:
            raise StartError(f"Redis holds schema {schema} of this cluster, and this version speaks {SCHEMA}")
        if int(shards) != self.keys.shards:
            raise StartError(f"cluster.shards is {self.keys.shards}, but this cluster was made with {shards}")
        self._id_key = bytes.fromhex(id_key)
        if not id_key:
            self._keyless_since_s = time.monotonic() if since_s is None else since_s

    async def _put_back(self, client: Client, wanted: dict[str, str]) -> list[bytes | None]:
        """Writes what is not there, and no more: a full Redis refuses even writes that would change nothing."""
        async with client.pipeline(transaction=True) as pipe:
            for name, value in wanted.items():
                if value:
                    pipe.hsetnx(self.keys.meta, name, value)
            pipe.hmget(self.keys.meta, list(wanted))
            found: list[bytes | None] = (await pipe.execute())[-1]
        return found


async def check(config: settings.Redis) -> str:
    """Looks whether this Redis will do. Returns what its operator should know of it; "" when all is well.

    Raises: StartError, in one clear line: it is older than 6.2, refuses the password, or evicts keys; StoreAway: it does not answer.
    """
    client: Redis = Redis.from_pool(_pool(url_of(config), 1, REQUEST_TIMEOUT_S))
    where = config.url.rpartition("@")[2] if config.url else config.addr
    try:
        info = await client.info()
    except AuthenticationError as error:
        raise StartError(f"Redis at {where} refuses the password") from error
    except ResponseError as error:
        raise StartError(f"Redis at {where}: {error}") from error
    except (RedisError, OSError, ValueError) as error:
        raise StoreAway(f"Redis at {where} does not answer") from error
    finally:
        await client.aclose()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < LOWEST_VERSION:
        raise StartError(f"Redis at {where} is {version}; 6.2 or newer is needed")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and not config.allow_eviction:
        raise StartError(
            f"Redis at {where} has maxmemory-policy {policy}, which deletes tasks silently;"
            " set it to noeviction (or redis.allow_eviction: true, if you know better)"
        )
    if info.get("aof_enabled", 1):  # a Redis for hire may not tell
        return ""
    return f"Redis at {where} has appendonly no: tasks that were accepted are lost when it restarts; set it to yes"
