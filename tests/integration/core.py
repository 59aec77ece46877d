"""The core around one real Redis, without processes: agents register, are claimed, take and answer, as nodes and routers would have it.

Four shards, so that every call meets more than one; and every script is watched to touch one slot.
"""

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.crc import key_slot

from cluster import messages, reasons, settings
from cluster.debts import AGE_S, Debts
from cluster.feeds import Feeds, ResultEntry
from cluster.inbox import Inbox
from cluster.mailbox import APPEND, Accepted, Delivery, Mailbox, Post, Said, Take, Taken
from cluster.nodes import NodeDirectory
from cluster.outcomes import Outcomes, Told
from cluster.redis_client import Store
from cluster.redis_line import Command
from cluster.registry import Bid, Claim, Registry, Release
from cluster.settings import Settings

SHARDS = 4
encode = msgspec.json.encode


class WatchedStore(Store):
    """A store whose scripts touch one slot each, as Redis Cluster asks, unless all keys of agents lie in one shard."""

    async def run(
        self, name: str, keys: Sequence[str], *args: str | bytes | int, behind: Sequence[Command] = ()
    ) -> Any:
        """Raises: AssertionError when the keys lie in more than one slot."""
        slots = {key_slot(key.encode()) for key in keys}
        assert len(slots) == 1 or self.keys.shards == 1, f"{name} touches {len(slots)} slots: {keys}"
        return await super().run(name, keys, *args, behind=behind)


@dataclass
class Holder:
    """What a node knows of an agent that it holds; goes on as a session does."""

    agent_id: str
    owner: str
    epoch: int
    claimed_at: int
    cursor: int
    unended: int
    cancels: str = "0"


class Core:
    """One process's rooms. `redis` looks behind their backs."""

    def __init__(self, url: str, prefix: str, *, shards: int = SHARDS, **sections: Any) -> None:
        redis = settings.Redis(enabled=True, url=url, prefix=prefix)
        self.settings = Settings(redis=redis, **sections)
        agent = self.settings.agent
        self.store = WatchedStore(redis, shards)
        self.keys = self.store.keys
        self.registry = Registry(self.store, agent.heartbeat_timeout_s, agent.forget_after_s, agent.max_takeovers)
        self.mailbox = Mailbox(self.store, self.settings.tasks)
        self.feeds = Feeds(self.store, self.settings)
        self.outcomes = Outcomes(self.store, self.mailbox, self.feeds)
        self.inbox = Inbox(self.store)
        self.nodes = NodeDirectory(self.store)
        self.redis: Any = Redis.from_url(url, decode_responses=True, protocol=2)

    async def start(self) -> None:
        """The key of agent ids is there, as where a process has been running for a while."""
        await self.store.sync_clock()
        await self.redis.hsetnx(self.keys.meta, "id_key", secrets.token_hex(32))
        await self.store.agree()

    async def close(self) -> None:
        await self.store.close()
        await self.redis.aclose()

    # ---- agents

    async def agent(self, token: str = "token-1", *, host_id: int = 0, name: str = "web", **system: Any) -> str:
        """A registered agent's id."""
        registered = await self.registry.register(token, name, host_id, {}, system, may_be_new=True)
        return registered.id

    async def claim(self, agent_id: str, node: str = "n1", *, force: bool = True, address: str = "192.0.2.1") -> Claim:
        """A claim that is granted."""
        (outcome,) = await self.registry.claim([Bid(agent_id, node, f"boot-{node}", address, "", force)])
        assert isinstance(outcome, Claim), outcome
        return outcome

    async def hold(self, agent_id: str, node: str = "n1") -> Holder:
        """A claimed agent's session."""
        claim = await self.claim(agent_id, node)
        return Holder(agent_id, str(claim.owner), claim.owner.epoch, claim.taken, claim.taken, claim.unended)

    async def connected(self, token: str = "token-1", node: str = "n1") -> Holder:
        """A registered and claimed agent."""
        return await self.hold(await self.agent(token), node)

    async def release(self, holder: Holder, reason: str = "websocket_closed", age_ms: int = 0) -> bytes:
        """The offline entry that is owed, b"" when nothing ended."""
        (owed,) = await self.registry.release([Release(holder.agent_id, holder.owner, reason, age_ms)])
        return owed

    # ---- tasks

    async def post(self, agent_id: str, *task_ids: str, batch: str = "", **fields: Any) -> Accepted:
        """Tasks that are accepted."""
        (outcome,) = await self.mailbox.enqueue([a_post(agent_id, *task_ids, batch=batch, **fields)])
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def deliver(self, holder: Holder) -> Delivery | None:
        """One take, after which the session stands where the courier would have it."""
        (delivery,) = await self.mailbox.take([Take(holder.agent_id, holder.owner, holder.cursor, holder.cancels)])
        if delivery is not None:
            holder.cursor = delivery.cursor
            holder.cancels = delivery.cancels
        return delivery

    async def take(self, holder: Holder) -> list[str]:
        """The ids of the tasks that one take handed out."""
        delivery = await self.deliver(holder)
        assert delivery is not None
        return ids(delivery.tasks)

    async def settle(self, agent_id: str, task_id: str, kind: str = "end", **more: Any) -> int:
        """The verdict on what an agent says, which is not written yet."""
        (verdict,) = await self.mailbox.settle([said(a_result(agent_id, task_id, **more), kind)])
        return verdict

    async def told(self, *words: tuple[str, ResultEntry]) -> list[int]:
        """The verdicts on a batch of a node's lane, (kind, entry) each."""
        return await self.outcomes.write([Told(*word) for word in words])

    async def result(self, agent_id: str, task_id: str, status: str = "success", **more: Any) -> bool:
        """A result all the way to the feed and its ack; whether it was written."""
        entry = a_result(agent_id, task_id, status, **more)
        kind = "end" if entry.is_end else "progress"
        (verdict,) = await self.mailbox.settle([said(entry, kind)])
        if verdict == APPEND:
            await self.feeds.append_results([entry])
            if entry.is_end:
                await self.feeds.paid([entry])
        return verdict == APPEND

    # ---- looking

    async def record(self, agent_id: str, task_id: str) -> dict[str, str]:
        """A task's record."""
        found: dict[str, str] = await self.redis.hgetall(self.keys.task(agent_id, task_id))
        return found

    async def mail(self, agent_id: str) -> list[str]:
        """What has not ended, in order."""
        found: list[str] = await self.redis.zrange(self.keys.of_agent("mail", agent_id), 0, -1)
        return found

    async def owed(self, agent_id: str) -> dict[str, list[str]]:
        """What is owed to feeds for agents of this agent's shard."""
        raw = await self.redis.hgetall(self.keys.in_shard(self.keys.shard(agent_id), "unfed"))
        return {field: json.loads(entry) for field, entry in raw.items()}

    async def feed(self, name: str = "agent_results") -> list[dict[str, str]]:
        """All entries of a feed."""
        return [fields for _, fields in await self.redis.xrange(name)]

    async def pay_what_is_owed(self) -> int:
        """As a router does it, seconds later; how many entries were owed."""
        debts = Debts(self.store, self.feeds)
        await debts.pay(0.0)
        return await debts.pay(AGE_S)

    async def ends(self) -> dict[str, list[str]]:
        """task id -> the statuses of its terminal entries, in the feed of results."""
        found: dict[str, list[str]] = {}
        for entry in await self.feed():
            if entry["status"] in messages.ENDS:
                found.setdefault(entry["task_id"], []).append(entry["status"])
        return found


def a_post(agent_id: str, *task_ids: str, batch: str = "", **fields: Any) -> Post:
    tasks = [messages.new_task(json.dumps({"id": task_id, **fields}).encode()) for task_id in task_ids]
    return Post(agent_id, batch, tasks)


def a_result(agent_id: str, task_id: str, status: str = "success", *, message_id: str = "", **more: Any) -> ResultEntry:
    """A result as the uplink makes it."""
    plain = ResultEntry(
        agent_id, task_id, status, "0", "", "0", "1", "2", "0", "", "3000", message_id or f"m-{task_id}"
    )
    return msgspec.structs.replace(plain, **more)


def said(entry: ResultEntry, kind: str = "end") -> Said:
    owed = encode(entry).decode() if kind in ("end", "lost") else ""
    told = (entry.exit_code, reasons.short(entry.error_msg), entry.error_code)
    return Said(entry.agent_id, entry.task_id, kind, entry.status, entry.message_id, owed, *told)


def ids(tasks: Sequence[Taken]) -> list[str]:
    return [task.id for task in tasks]


async def state_of(mailbox: Mailbox, agent_id: str, task_id: str) -> str | None:
    """The state of a task; None when it is not known."""
    task = await mailbox.look(agent_id, task_id)
    return None if task is None else task.state


async def together(*calls: Any) -> list[Any]:
    """All at once, each in a task of its own."""
    return list(await asyncio.gather(*calls))
