"""Hands WebSocket upgrades over to the nodes of this machine: the router accepts on the one public port, a node goes on.

Owns the choice of the node and the line of those that wait for one. Knows nothing of WebSockets: the request's bytes travel with the
socket, and the node's own HTTP protocol reads them.

Rules:
- The ready node with the least load gets it. One that fails is left out, and the next is tried.
- Reading is paused before the socket leaves, so that no byte is swallowed here; then this process closes its copy, without FIN.
- While no node is ready, upgrades wait in order, `hold_s` at the most and `max_held` at once: agents come back in lockstep when
  refused, so they are refused late (a restarting node is back sooner).

| request | answer |
| --- | --- |
| path that does not begin with /ws/ | 404 |
| larger than one message | 431 |
| over TLS, whose session cannot be handed over; or nobody there in time | 503, Retry-After |
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from cluster.refusal import BAD_PARAMETER, NETWORK, NOT_FOUND, Refusal, hang_up
from router.peer import Peer

MAX_REQUEST_BYTES = 24 * 1024  # the head, and what came right behind it; fits in a peer's buffer

_RETRY_S = 0.1
_SAY_AGAIN_S = 60.0

_UNKNOWN_PATH = Refusal(404, NOT_FOUND, "no WebSocket is served at this path")
_TOO_LARGE = Refusal(431, BAD_PARAMETER, "the handshake is too large")
_NOBODY = Refusal(503, NETWORK, "no node can take this connection", retry_after_s=1)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A live node of this machine, as the directory shows it."""

    node_id: str
    path: str  # of the Unix socket on which it adopts
    load: int  # sockets it holds


class Handover:
    """The router's end of the hand-over, shared by all its connections."""

    def __init__(self, *, hold_s: float = 8.0, max_held: int = 10_000) -> None:
        self._hold_s = hold_s
        self._max_held = max_held
        self._peers: dict[str, Peer] = {}
        self._held: deque[tuple[float, HandoverProtocol]] = deque()  # with the time at which it has waited enough
        self._timer: asyncio.TimerHandle | None = None
        self._has_looked = False  # until then, Redis may be away, and nodes there
        self._say_from_s = 0.0
        self.given = 0
        self.refused = 0

    @property
    def held(self) -> int:
        """How many wait for a node."""
        return len(self._held)

    def update(self, targets: Iterable[Target]) -> None:
        """Takes the live nodes as they are now: all of them, each time."""
        self._has_looked = True
        wanted = {target.path: target for target in targets}
        for path in self._peers.keys() - wanted.keys():
            self._peers.pop(path).close()
        for target in wanted.values():
            self._note(target)
        self._give_held()

    def take(self, upgrade: "HandoverProtocol") -> None:
        """Finds a node for this upgrade, or lets it wait for one."""
        if not self._held and self._give(upgrade):
            return
        if len(self._held) >= self._max_held:
            self._complain()
            self._refuse(upgrade)
            return
        self._held.append((asyncio.get_running_loop().time() + self._hold_s, upgrade))
        self._look_again()

    def close(self) -> None:
        """Refuses who waits, and hangs up on the nodes."""
        while self._held:
            self._refuse(self._held.popleft()[1])
        self.update(())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _note(self, target: Target) -> None:
        peer = self._peers.get(target.path)
        if peer is None:
            peer = self._peers[target.path] = Peer(target.node_id, target.path, target.load, self._give_held)
        else:
            peer.report(target.load)
        peer.revive()

    def _give(self, upgrade: "HandoverProtocol") -> bool:
        while (peer := self._least_loaded()) is not None:
            if peer.send(upgrade.request, upgrade.descriptor()):
                self.given += 1
                upgrade.handed_over()
                return True
        return False

    def _least_loaded(self) -> Peer | None:
        for peer in self._peers.values():
            peer.revive()
        return min((peer for peer in self._peers.values() if peer.is_ready), key=lambda peer: peer.load, default=None)

    def _give_held(self) -> None:
        while self._held:
            upgrade = self._held[0][1]
            if upgrade.is_open and not self._give(upgrade):
                return
            self._held.popleft()

    def _look_again(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_RETRY_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._give_held()
        now_s = asyncio.get_running_loop().time()
        while self._held and self._held[0][0] <= now_s:
            self._complain()
            self._refuse(self._held.popleft()[1])
        if self._held:
            self._look_again()

    def _complain(self) -> None:
        """Says what is wrong with the machine, if that is why an upgrade is refused."""
        now_s = asyncio.get_running_loop().time()
        if self._has_looked and not self._peers and now_s >= self._say_from_s:
            self._say_from_s = now_s + _SAY_AGAIN_S
            log.warning(
                "agents dial this router, but no node of this machine takes them:"
                " route /ws/ and /api/agents/register to nodes"
            )

    def _refuse(self, upgrade: "HandoverProtocol") -> None:
        if upgrade.is_open:
            self.refused += 1
            upgrade.refuse(_NOBODY)


class HandoverProtocol(asyncio.Protocol):
    """One upgrade on its way. For uvicorn's `ws=`, as `functools.partial(HandoverProtocol, handover=...)`."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], *, handover: Handover
    ) -> None:
        self._connections = cast("set[object]", server_state.connections)
        self._handover = handover
        self._transport: asyncio.Transport | None = None
        self.request = b""

    @property
    def is_open(self) -> bool:
        """Whether it still waits for a node."""
        return self._transport is not None and not self._transport.is_closing()

    def descriptor(self) -> int:
        """The socket's number in this process."""
        descriptor: int = self._open_transport().get_extra_info("socket").fileno()
        return descriptor

    def handed_over(self) -> None:
        """The node has its own copy of the socket: ours is closed, and the connection lives on."""
        self._connections.discard(self)
        self._open_transport().abort()
        self._transport = None

    def refuse(self, refusal: Refusal) -> None:
        """No node gets it."""
        self._connections.discard(self)
        hang_up(self._open_transport(), refusal, self._connections)
        self._transport = None

    def _open_transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise RuntimeError("this connection has gone to a node already, or was refused")
        return self._transport

    # Called by uvicorn and the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.pause_reading()
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """The head, then what came with it; the transport itself is paused. Begins when both are here."""
        if not self.request:
            asyncio.get_running_loop().call_soon(self._begin)
        self.request += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops."""
        if self.is_open:
            self.refuse(_NOBODY)

    def _begin(self) -> None:
        if not self.is_open:
            return
        if not self.request.split(b" ", 2)[1].startswith(b"/ws/"):
            self.refuse(_UNKNOWN_PATH)
        elif len(self.request) > MAX_REQUEST_BYTES:
            self.refuse(_TOO_LARGE)
        elif is_ssl(self._open_transport()):
            self.refuse(_NOBODY)
        else:
            self._handover.take(self)
