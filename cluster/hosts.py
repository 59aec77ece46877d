"""Which agent a host id of the control plane belongs to: one agent at a time.

Owns the keys `host`, and the field `host_id` of agents. Rules: a host id stays with an agent that is online, or was within the heartbeat
timeout; else the newest registration gets it. Two slots are involved, so each step is one compare-and-set, and the last of two wins.
"""

import asyncio
from collections.abc import Sequence

from cluster.batching import Batcher
from cluster.keys import Keys
from cluster.redis_client import Store

NO_SUCH_HOST = "no agent has this host id"
PATIENCE_S = 0.1  # behind a look-up that a distant Redis has not answered


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

    async def give(self, agent_id: str, host_id: int, before: bytes) -> bool:
        """Gives an agent the host id it asks for (0 = none), in the place of `before`. Whether it got it. Raises: StoreUnavailable."""
        is_given = host_id == 0 or await self._take(host_id, agent_id)
        host = str(host_id) if is_given and host_id else ""
        if before.decode() != host:
            await self._store.ask(("HSET", self._keys.of_agent("agent", agent_id), "host_id", host))
            await self.free(before, agent_id)
        return is_given

    async def free(self, host_id: bytes, agent_id: str) -> None:
        """The agent's host id, if it is its own, is nobody's. Raises: StoreUnavailable."""
        if host_id:
            await self._store.run("compare_and_set", [self._keys.host(host_id.decode())], agent_id, "")

    async def _take(self, host_id: int, agent_id: str) -> bool:
        key = self._keys.host(str(host_id))
        if await self._store.run("compare_and_set", [key], "", agent_id):  # it was nobody's, or is this agent's
            return True
        holder = await self.agent_of(host_id) or ""
        if holder and await self._lives(holder):
            return False
        is_taken = bool(await self._store.run("compare_and_set", [key], holder, agent_id))
        if is_taken and holder:
            await self._store.run("leave_host", [self._keys.of_agent("agent", holder)], host_id)
        return is_taken

    async def _lives(self, agent_id: str) -> bool:
        leased, last_seen = await self._store.ask(
            ("EXISTS", self._keys.of_agent("lease", agent_id)),
            ("HGET", self._keys.of_agent("agent", agent_id), "last_seen"),
        )
        return bool(leased) or self._store.now_ms() - int(last_seen or 0) < self._timeout_ms
