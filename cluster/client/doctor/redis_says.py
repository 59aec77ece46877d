"""What Redis says of itself: its INFO, its settings as far as it tells them, how fast it answers, what it does not allow.

Owns the connection for that; judges nothing. Rules: nothing is changed in Redis; what one command may not be asked leaves its answer
empty, and is named in `refused`.
"""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from cluster import settings
from cluster.client.doctor import rights
from cluster.keys import Keys
from cluster.nodes import Node, node_of
from cluster.redis_client import url_of

TIMEOUT_S = 2.0
PINGS = 30
SLOW_ENTRIES = 32

Client = Any  # as in cluster/redis_client.py


class RedisSays(Struct, kw_only=True):
    """Everything that was asked. `error`: why nothing could be."""

    error: str = ""
    info: dict[str, Any] = {}
    config: dict[str, str] = {}
    round_trips_ms: list[float] = []
    clock_ahead_ms: float = 0.0
    spikes: list[list[Any]] = []
    slow: list[dict[str, Any]] = []
    forbidden: list[str] = []
    refused: list[str] = []
    is_cluster_here: bool = False
    nodes: list[Node] = []
    feeds: dict[str, int] = {}

    @property
    def answers(self) -> bool:
        """Whether it could be asked."""
        return not self.error


async def ask(redis: settings.Redis, feeds: Sequence[str]) -> RedisSays:
    """Asks it everything. Never raises for what Redis does."""
    try:
        async with _client(redis) as client:
            return await _answers(client, redis.prefix, feeds)
    except AuthenticationError:
        return RedisSays(error="Redis refuses the password")
    except ResponseError as error:
        return RedisSays(error=f"Redis says: {error}")
    except (RedisError, OSError, ValueError) as error:
        return RedisSays(error=f"Redis does not answer ({_why(error)})")


@contextlib.asynccontextmanager
async def _client(redis: settings.Redis) -> AsyncIterator[Client]:
    client: Client = Redis.from_url(
        url_of(redis),
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    try:
        yield client
    finally:
        await client.aclose()


async def _answers(client: Client, prefix: str, feeds: Sequence[str]) -> RedisSays:
    said = RedisSays()
    await client.ping()
    said.round_trips_ms = [await _round_trip_ms(client) for _ in range(PINGS)]
    said.info = await _allowed(said, "INFO", client.info(), {})
    await _ask_the_time(client, said)
    said.config = _texts(await _allowed(said, "CONFIG GET", client.config_get("*"), {}))
    said.spikes = [list(map(_text, row)) for row in await _allowed(said, "LATENCY LATEST", client.latency_latest(), [])]
    slow = await _allowed(said, "SLOWLOG GET", client.slowlog_get(SLOW_ENTRIES), [])
    said.slow = [{name: _text(value) for name, value in entry.items()} for entry in slow]
    said.forbidden = await _forbidden(client, rights.commands(prefix, feeds))
    keys = Keys(prefix, 1)
    said.is_cluster_here = bool(await _allowed(said, "EXISTS", client.exists(keys.meta), 0))
    said.nodes = await _nodes(client, said, keys)
    said.feeds = {feed: int(await _allowed(said, "XLEN", client.xlen(feed), -1)) for feed in feeds}
    return said


async def _round_trip_ms(client: Client) -> float:
    began_s = time.perf_counter()
    await client.ping()
    return (time.perf_counter() - began_s) * 1000


async def _ask_the_time(client: Client, said: RedisSays) -> None:
    before_s = time.time()
    at = await _allowed(said, "TIME", client.time(), None)
    if at is not None:
        said.clock_ahead_ms = (at[0] + at[1] / 1e6 - (before_s + time.time()) / 2) * 1000


async def _allowed(said: RedisSays, name: str, asked: Any, otherwise: Any) -> Any:
    """The answer; `otherwise`, when Redis does not give one."""
    try:
        return await asked
    except ResponseError as error:
        said.refused.append(f"{name}: {error}")
        return otherwise


async def _forbidden(client: Client, commands: Sequence[rights.Command]) -> list[str]:
    """Those that this user may not give. They are queued and discarded: none is run."""
    connection = await client.connection_pool.get_connection()
    try:
        await connection.send_packed_command(connection.pack_commands([("MULTI",), *commands, ("DISCARD",)]))
        replies = [await _reply(connection) for _ in range(len(commands) + 2)]
    finally:
        await client.connection_pool.release(connection)
    return sorted({f"{command[0]}: {reply}" for command, reply in zip(commands, replies[1:], strict=False) if reply})


async def _reply(connection: Any) -> str:
    """Why it was not queued; "" when it was."""
    try:
        await connection.read_response()
    except ResponseError as error:
        return str(error)
    return ""


async def _nodes(client: Client, said: RedisSays, keys: Keys) -> list[Node]:
    ids = sorted(map(_text, await _allowed(said, "SMEMBERS", client.smembers(keys.nodes), [])))
    rows = {node_id: await _allowed(said, "HGETALL", client.hgetall(keys.node(node_id)), {}) for node_id in ids}
    found = (node_of(node_id, row) for node_id, row in rows.items() if b"boot" in row)
    return [node for node in found if node is not None]


def _texts(raw: dict[Any, Any]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in raw.items()}


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _why(error: Exception) -> str:
    """Without the address, which may hold a password."""
    below = error.__cause__ or error.__context__
    number = getattr(error, "errno", None) or getattr(below, "errno", None)
    return os.strerror(number).lower() if number and number > 0 else type(below or error).__name__
