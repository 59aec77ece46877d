"""Which agent a host id of the control plane belongs to: one agent at a time.

Owns the keys `host`, and the field `host_id` of agents. Rules: a host id stays with an agent that is online, or was within the heartbeat
timeout; else the newest registration gets it. Two slots are involved, so each step is one compare-and-set, and the last of two wins.
"""

from cluster.keys import Keys
from cluster.redis_client import Store


class Hosts:
    """The host ids of all agents."""

    def __init__(self, store: Store, timeout_ms: int) -> None:
        self._store = store
        self._keys: Keys = store.keys
        self._timeout_ms = timeout_ms

    async def agent_of(self, host_id: int) -> str | None:
        """The id of the agent that has it. Raises: StoreUnavailable."""
        [agent_id] = await self._store.ask(("GET", self._keys.host(str(host_id))))
        return None if agent_id is None else bytes(agent_id).decode()

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
