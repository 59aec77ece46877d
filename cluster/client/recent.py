"""The tasks that somebody may want to name: those of an agent that are open, and those that ended last, from the results feed."""

import asyncio

from cluster.client.streams import cluster_store, redis_of
from cluster.redis_client import Store
from cluster.settings import Settings


def recent_tasks(settings: Settings, agent_id: str, most: int) -> list[tuple[str, str]]:
    """Task ids, each with how it stands, the newest first; `agent_id` "": of all agents. Raises: Failed."""
    return asyncio.run(_recent(settings, agent_id, most))


async def _recent(settings: Settings, agent_id: str, most: int) -> list[tuple[str, str]]:
    feed = settings.result_stream
    async with cluster_store(redis_of(settings)) as store:
        is_open = await _open_tasks(store, agent_id, most) if agent_id else []
        ended = await _ended(store, feed.key, agent_id, most) if feed.enabled else []
    return list({**dict(reversed(ended)), **dict(reversed(is_open))}.items())[::-1]


async def _open_tasks(store: Store, agent_id: str, most: int) -> list[tuple[str, str]]:
    async with store.session() as client:
        members = await client.zrevrange(store.keys.of_agent("mail", agent_id), 0, most - 1)
    return [(member.decode(), "open") for member in members]


async def _ended(store: Store, feed: str, agent_id: str, most: int) -> list[tuple[str, str]]:
    async with store.session() as client:
        entries = await client.xrevrange(feed, count=most)
    rows = [fields for _, fields in entries if agent_id.encode() in {b"", fields.get(b"agent_id")}]
    return [(fields[b"task_id"].decode(), fields.get(b"status", b"").decode()) for fields in rows]
