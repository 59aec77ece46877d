"""Which agent a host id of the control plane belongs to: one agent at a time.

Owns the keys `host`, and the field `host_id` of agents. Rules: a host id stays with an agent that is online, or was within the heartbeat
timeout; else the newest registration gets it. Two slots are involved, so each step is one compare-and-set, and the last of two wins.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from cluster.batching import Batcher
from cluster.keys import Keys
from cluster.redis_client import Store

NO_SUCH_HOST = "no agent has this host id"
PATIENCE_S = 0.1  # behind a look-up that a distant Redis has not answered


class Wish(NamedTuple):
    """What an agent asks for when it registers, and what it has had; "" = no host id."""

    agent_id: str
    host_id: str
    before: str


class Hosts:
    """The host ids of all agents."""

    def __init__(self, store: Store, timeout_ms: int) -> None:
        self._store = store
        self._keys: Keys = store.keys
        self._timeout_ms = timeout_ms
        self._sought: Batcher[int, str | None] = Batcher("find hosts", self._agents_of, patience_s=PATIENCE_S)

    async def agent_of(self, host_id: int) -> str | None:
        """The id of the agent that has it. Raises: StoreUnavailable."""
        return await self.find(host_id)

    def find(self, host_id: int) -> asyncio.Future[str | None]:
        """As `agent_of`, for who does not await."""
        return self._sought.put(host_id)

    async def _agents_of(self, host_ids: Sequence[int]) -> list[str | None]:
        found = await self._store.ask(*(("GET", self._keys.host(str(host_id))) for host_id in host_ids))
        return [None if agent_id is None else bytes(agent_id).decode() for agent_id in found]

    async def give(self, wishes: Sequence[Wish]) -> list[bool]:
        """Gives agents what they ask for. For each: whether it got it, or asked for none. Raises: StoreUnavailable."""
        holders = await self._settled(wishes)
        given = [holder == wish.agent_id for wish, holder in zip(wishes, holders, strict=True)]
        await self._write([wish for wish, is_given in zip(wishes, given, strict=True) if is_given])
        others = [place for place, is_given in enumerate(given) if not is_given]
        taken = await asyncio.gather(*(self._take_over(wishes[place], holders[place]) for place in others))
        for place, is_taken in zip(others, taken, strict=True):
            given[place] = is_taken
        return given

    async def free(self, host_id: bytes, agent_id: str) -> None:
        """The agent's host id, if it is its own, is nobody's. Raises: StoreUnavailable."""
        if host_id:
            await self._store.run("compare_and_set", [self._keys.host(host_id.decode())], agent_id, "")

    async def _settled(self, wishes: Sequence[Wish]) -> list[str]:
        """What was nobody's goes to who asks for it. Who holds each host id now; who asks for none holds that."""
        keys = [(self._keys.host(wish.host_id), wish.agent_id) for wish in wishes if wish.host_id]
        commands = [command for key, agent_id in keys for command in (("SET", key, agent_id, "NX"), ("GET", key))]
        found = iter((await self._store.ask(*commands))[1::2])
        return [(next(found) or b"").decode() if wish.host_id else wish.agent_id for wish in wishes]

    async def _take_over(self, wish: Wish, holder: str) -> bool:
        """From an agent that has gone; with one that lives it stays."""
        key = self._keys.host(wish.host_id)
        is_taken = not (holder and await self._lives(holder)) and bool(
            await self._store.run("compare_and_set", [key], holder, wish.agent_id)
        )
        if is_taken and holder:
            await self._store.run("leave_host", [self._keys.of_agent("agent", holder)], wish.host_id)
        await self._write([wish if is_taken else wish._replace(host_id="")])
        return is_taken

    async def _write(self, wishes: Sequence[Wish]) -> None:
        """What agents have now, where it is not what they had."""
        changed = [wish for wish in wishes if wish.host_id != wish.before]
        await self._store.ask(
            *(("HSET", self._keys.of_agent("agent", wish.agent_id), "host_id", wish.host_id) for wish in changed)
        )
        for wish in changed:
            await self.free(wish.before.encode(), wish.agent_id)

    async def _lives(self, agent_id: str) -> bool:
        leased, last_seen = await self._store.ask(
            ("EXISTS", self._keys.of_agent("lease", agent_id)),
            ("HGET", self._keys.of_agent("agent", agent_id), "last_seen"),
        )
        return bool(leased) or self._store.now_ms() - int(last_seen or 0) < self._timeout_ms
