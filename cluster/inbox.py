"""A node's inbox: how routers and nodes reach the process that holds an agent.

Owns the key `inbox`; knows nothing of what a note makes a node do. Rules: a note is a hint or an order that may be lost - mail, cancels
and ownership are found again by claims and renewals, orders to an agent are only good for `ORDER_MS`. Read from the last id, without a
group, so that no entry can hang between delivered and read; bounded; nothing is put into the inbox of a node that is gone.

| kind | of | the node |
| --- | --- | --- |
| `ring` | agent, data = further agents | takes what waits in their mailboxes |
| `send` | agent, epoch, deadline, data | writes the frame, if the epoch is the session's and the time has not run out |
| `close` | agent, epoch, data = close code | closes that session |
| `drain`, `undrain` | data = sockets a second | takes no agents and closes those it has, or takes agents again |
| `move` | data = how many, sockets a second | closes some of its agents, so that they dial again |
"""

import logging
from collections.abc import Iterable, Sequence

from msgspec import Struct

from cluster.errors import NotConnected
from cluster.keys import Keys
from cluster.redis_client import BLOCK_MS, Store
from cluster.redis_line import Command
from cluster.registry import Owner

MAX_NOTES = 100_000  # beyond it the oldest go; what they announced is found by renewal
ORDER_MS = 10_000
ORDERS = frozenset(("drain", "undrain", "move"))  # for the node itself
READ_NOTES = 500

logger = logging.getLogger(__name__)


class Note(Struct, frozen=True, gc=False):
    """One entry. `deadline_ms` in Redis time, 0 = none."""

    kind: str
    agent_id: str
    epoch: int = 0
    data: bytes = b""
    deadline_ms: int = 0


class Inbox:
    """The inboxes of all nodes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: Keys = store.keys

    async def ring(self, owners: Sequence[tuple[Owner, str]]) -> None:
        """Tells owners that mail waits for an agent: (owner, agent id). Raises: StoreUnavailable."""
        if owners:
            await self._store.ask(*self.rings(owners), may_repeat=False)

    def rings(self, owners: Iterable[tuple[Owner, str]]) -> list[Command]:
        """What `ring` says to Redis, for who has to speak to it anyway: one entry a node, however many of its agents are rung."""
        by_node: dict[str, list[str]] = {}
        for owner, agent_id in owners:
            by_node.setdefault(owner.node, []).append(agent_id)
        return [
            self._entry(node_id, Note("ring", first, 0, " ".join(others).encode()))
            for node_id, (first, *others) in by_node.items()
        ]

    async def close(self, claims: Sequence[tuple[Owner, str]], code: int) -> None:
        """Tells the processes of these claims to close the agents' sockets. Raises: StoreUnavailable."""
        data = b"%d" % code
        await self._put([(owner.node, Note("close", agent_id, owner.epoch, data)) for owner, agent_id in claims])

    async def send(self, owner: Owner, agent_id: str, frame: bytes) -> None:
        """Has a frame written to the agent within `ORDER_MS` or not at all. Raises: NotConnected, StoreUnavailable."""
        note = Note("send", agent_id, owner.epoch, frame, self._store.now_ms() + ORDER_MS)
        if await self._put([(owner.node, note)]) == [None]:
            raise NotConnected("the agent is not connected")

    async def order(self, node_id: str, kind: str, data: str = "") -> None:
        """Asks a node for one of ORDERS; repeated, it changes nothing but a `move`. Raises: NotConnected, StoreUnavailable."""
        if await self._put([(node_id, Note(kind, "", 0, data.encode()))]) == [None]:
            raise NotConnected("this node is not there any more")

    async def _put(self, notes: Sequence[tuple[str, Note]]) -> list[bytes | None]:
        """The ids of the entries; None where there was no inbox."""
        if not notes:
            return []
        return await self._store.ask(*(self._entry(node_id, note) for node_id, note in notes), may_repeat=False)

    def _entry(self, node_id: str, note: Note) -> Command:
        fields = ("kind", note.kind, "agent", note.agent_id, "epoch", note.epoch, "data", note.data)
        deadline = ("deadline", note.deadline_ms) if note.deadline_ms else ()
        return "XADD", self._keys.inbox(node_id), "NOMKSTREAM", "MAXLEN", "~", MAX_NOTES, "*", *fields, *deadline

    async def read(self, node_id: str, after: str) -> tuple[str, list[Note]]:
        """(the last id, the notes) that came after an id; waits up to a second for one. Raises: StoreUnavailable."""
        entries = await self._store.read_streams({self._keys.inbox(node_id): after}, READ_NOTES, BLOCK_MS)
        last = entries[-1].id if entries else after
        return last, [note for entry in entries if b"agent" in entry.fields for note in _notes(entry.fields)]

    async def trim(self, node_id: str, read: str) -> None:
        """Drops what this node has read. Raises: StoreUnavailable."""
        async with self._store.session() as client:
            await client.xtrim(self._keys.inbox(node_id), minid=read, approximate=True)


def _notes(fields: dict[bytes, bytes]) -> list[Note]:
    note = _note(fields)
    if note is None:
        return []
    if note.kind != "ring":
        return [note]
    return [Note("ring", agent_id) for agent_id in (note.agent_id, *note.data.decode(errors="replace").split())]


def _note(fields: dict[bytes, bytes]) -> Note | None:
    """None for what is no note: a node must not end, with all its connections, over what somebody else wrote there."""
    kind, agent, data = fields.get(b"kind", b""), fields[b"agent"], fields.get(b"data", b"")
    try:
        note = Note(
            kind.decode(), agent.decode(), int(fields.get(b"epoch") or 0), data, int(fields.get(b"deadline") or 0)
        )
        is_note = note.kind != "close" or 1000 <= int(data) < 5000
    except ValueError:
        is_note = False
    if not is_note:
        logger.warning("an entry of the inbox is no note: it is left out")
        return None
    return note
