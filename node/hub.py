"""The sessions of this process, by agent. Knows who is connected here; not who owns what (presence), nor any Redis."""

import asyncio
from collections.abc import Iterator

from cluster import close_codes
from node.session import Session


class Hub:
    """All open sessions; one an agent."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def get(self, agent_id: str) -> Session | None:
        """The session of an agent, if it is connected here."""
        return self._sessions.get(agent_id)

    def add(self, session: Session) -> None:
        """The session of the newest claim has the place; the other one is closed, whichever of them came first."""
        held = self._sessions.get(session.agent_id)
        newer, older = (held, session) if held is not None and held.epoch > session.epoch else (session, held)
        self._sessions[session.agent_id] = newer
        if older is not None and older is not newer:
            older.close(close_codes.REPLACED)

    def discard(self, session: Session) -> None:
        """Drops a session, unless a newer one of the same agent has its place."""
        if self._sessions.get(session.agent_id) is session:
            del self._sessions[session.agent_id]
            if not self._sessions:
                self._emptied.set()

    async def emptied(self) -> None:
        """Returns when nobody is connected."""
        self._emptied.clear()
        if self._sessions:
            await self._emptied.wait()
