"""What agents are called, for feeds that tell their ids alone. Asks Redis, and remembers; who is not known keeps its id."""

from collections.abc import Collection, Mapping

from cluster.client.streams import Entry, shards_of
from cluster.errors import StoreUnavailable
from cluster.redis_client import Store
from cluster.settings import Redis

MOST = 20_000  # remembered


class Names:
    """The names of a cluster's agents."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._store: Store | None = None
        self._known: dict[str, str] = {}

    async def close(self) -> None:
        """Lets go of Redis."""
        if self._store is not None:
            await self._store.close()

    async def of(self, entries: Collection[Entry]) -> Mapping[str, str]:
        """The names of these entries' agents, by id; those that can be learnt."""
        new = {entry.fields["agent_id"] for entry in entries if "agent_id" in entry.fields} - self._known.keys()
        if len(self._known) > MOST:
            self._known.clear()
        try:
            if new:
                self._known.update(await self._asked(sorted(new)))
        except StoreUnavailable:
            pass  # an id will do, and the next entries ask again
        return self._known

    async def _asked(self, agent_ids: list[str]) -> dict[str, str]:
        store = self._store = self._store or await self._open()
        if store is None:
            return {}
        names = await store.ask(*[("HGET", store.keys.of_agent("agent", agent_id), "name") for agent_id in agent_ids])
        pairs = zip(agent_ids, names, strict=True)
        return {agent_id: name.decode(errors="replace") for agent_id, name in pairs if name}

    async def _open(self) -> Store | None:
        """A store with the cluster's shards; None where there is no cluster."""
        shards = await shards_of(self._redis)
        return None if shards is None else Store(self._redis, shards)
