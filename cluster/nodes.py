"""The directory of nodes: who is there, where, how loaded, in which state.

Owns the keys `node` and `nodes`. Rules: a node that stops saying that it lives is gone `ALIVE_MS` later; one id is one process -
a second process gets the name only when the first one's announcement has run out.
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from cluster.errors import StartError, StoreUnavailable
from cluster.keys import Keys
from cluster.redis_client import Store
from cluster.registry import Owner

BEAT_S = 1.0
ALIVE_MS = 4000  # after the last beat; routing goes elsewhere within this time
RETRY_S = 0.2
INBOX_MS = 60_000  # a node that stalls keeps what came for it so long

STARTING, READY, DRAINING = "starting", "ready", "draining"
DEAD = "dead"  # it holds agents whose leases still run, and says nothing any more


class Node(Struct, frozen=True):
    """A node as it announces itself.

    `handover` is its Unix socket, "" when it takes connections on a port only; `load` its agents; `since_ms` when its state began;
    `supervisor` the process that restarts it, on its machine, "" = none of ours; `cpu_percent` of one CPU, over the last beat;
    `clock_ahead_ms` of its clock before Redis's.
    """

    id: str
    boot: str
    state: str = STARTING
    handover: str = ""
    address: str = ""
    admin: str = ""
    load: int = 0
    pid: int = 0
    machine: str = ""
    host: str = ""
    supervisor: str = ""
    since_ms: int = 0
    cpu_percent: int = 0
    version: str = ""
    clock_ahead_ms: int = 0


class NodeDirectory:
    """Announces this process's node, or looks up all of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: Keys = store.keys

    async def announce(self, node: Node, *, is_entering: bool = False) -> bool:
        """Says that the node lives. False: its id belongs to another process. Raises: StoreUnavailable."""
        keys = [self._keys.node(node.id), self._keys.inbox(node.id)]
        fields: Mapping[str, str | int] = {
            "state": node.state, "handover": node.handover, "address": node.address,
            "admin": node.admin, "load": node.load, "pid": node.pid, "machine": node.machine, "host": node.host,
            "supervisor": node.supervisor, "since": node.since_ms, "cpu": node.cpu_percent,
            "version": node.version, "clock": node.clock_ahead_ms,
        }  # fmt: skip
        flat = [part for pair in fields.items() for part in pair]
        if not await self._store.run("announce", keys, ALIVE_MS, INBOX_MS, int(is_entering), node.boot, *flat):
            return False
        async with self._store.session() as client:
            await client.sadd(self._keys.nodes, node.id)
        return True

    async def enter(self, node: Node) -> None:
        """The first announcement; waits until a predecessor's has run out, unless that is seen to be dead; and for Redis.

        Raises: StartError when another live process holds the id.
        """
        refusals = 0
        while True:
            with contextlib.suppress(StoreUnavailable):
                if await self.announce(node, is_entering=True):
                    return
                refusals += 1
                await self._bury(node)
            if refusals * RETRY_S > ALIVE_MS / 1000 + BEAT_S:
                raise StartError(f"node id {node.id} belongs to another live process; choose another with --id")
            await asyncio.sleep(RETRY_S)

    async def _bury(self, node: Node) -> None:
        """Withdraws the announcement of a predecessor that ran on this machine and does no more."""
        predecessor = next((other for other in await self.all() if other.id == node.id), None)
        if predecessor and predecessor.machine == node.machine != "" and not _lives(predecessor.pid):
            await self.leave(predecessor)

    async def is_beating(self, owner: Owner) -> bool:
        """Whether the process of this claim lives: watches its announcement for a beat and a half. Raises: StoreUnavailable."""
        first_ms = await self._left_ms(owner)
        if first_ms < 0:
            return False
        await asyncio.sleep(BEAT_S * 1.5)
        return await self._left_ms(owner) > first_ms - BEAT_S * 1000

    async def _left_ms(self, owner: Owner) -> int:
        key = self._keys.node(owner.node)
        async with self._store.session() as client:
            pipe = client.pipeline(transaction=False)
            pipe.hget(key, "boot")
            pipe.pttl(key)
            boot, left_ms = await pipe.execute()
        return int(left_ms) if boot == owner.boot.encode() else -1

    async def leave(self, node: Node) -> None:
        """Withdraws the announcement, if it is still this process's. Raises: StoreUnavailable."""
        key = self._keys.node(node.id)
        async with self._store.session() as client:
            if await client.hget(key, "boot") == node.boot.encode():
                await client.delete(key, self._keys.inbox(node.id))
                await client.srem(self._keys.nodes, node.id)

    async def all(self) -> list[Node]:
        """The nodes that live, by id. Raises: StoreUnavailable."""
        async with self._store.session() as client:
            ids = sorted(node_id.decode() for node_id in await client.smembers(self._keys.nodes))
            pipe = client.pipeline(transaction=False)
            for node_id in ids:
                pipe.hgetall(self._keys.node(node_id))
            rows = await pipe.execute()
            gone = [node_id for node_id, row in zip(ids, rows, strict=True) if b"boot" not in row]
            if gone:
                await client.srem(self._keys.nodes, *gone)
        found = [node_of(node_id, row) for node_id, row in zip(ids, rows, strict=True) if b"boot" in row]
        return [node for node in found if node is not None]


def node_of(node_id: str, row: dict[bytes, bytes]) -> Node | None:
    """A node, of the fields of its announcement; None for what no node of ours wrote: who looks nodes up must not end over it."""
    try:
        texts = {name.decode(): value.decode() for name, value in row.items()}
        return Node(
            node_id, texts["boot"], texts.get("state", ""), texts.get("handover", ""), texts.get("address", ""),
            texts.get("admin", ""), int(texts.get("load", 0)), int(texts.get("pid", 0)),
            texts.get("machine", ""), texts.get("host", ""), texts.get("supervisor", ""), int(texts.get("since", 0)),
            int(texts.get("cpu", 0)), texts.get("version", ""), int(texts.get("clock", 0)),
        )  # fmt: skip
    except ValueError:
        return None


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def supervisor_of(machine: str, *, is_supervised: bool) -> str:
    """The name of the process that restarts this one; "" when nobody of ours does."""
    return f"{machine}:{os.getppid()}" if is_supervised else ""


def this_machine() -> str:
    """What tells one table of processes from another: the boot of the kernel, and the namespace of process ids. "" = cannot tell."""
    try:
        return (
            f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{Path('/proc/self/ns/pid').stat().st_ino}"
        )
    except OSError:
        return ""
