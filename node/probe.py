"""`GET /ws/probe`: a WebSocket for nobody, by which an operator sees whether the way here takes WebSockets, and how long it lets them rest.

Knows neither agents nor Redis. Rules: it says once how the handshake looked from here, and does nothing; whoever says anything is hung up
on; a node has `MOST` of them at once, each for `LIFE_S` at the most. It needs no token, and costs less than a refused handshake.
"""

import asyncio
import time

import msgspec
from starlette.websockets import WebSocket

from cluster import close_codes
from cluster.errors import BadInput, ConfigError
from cluster.proxies import public_ws_base
from cluster.refusal import BAD_PARAMETER
from cluster.replies import INTERNAL, error_reply
from node.socket import Link

MOST = 8
LIFE_S = 180.0


class ProbeEndpoint:
    """Where anybody's WebSocket is let in."""

    def __init__(self, public_url: str) -> None:
        self._public_url = public_url
        self._open: set[ProbeSession] = set()

    async def enter(self, socket: WebSocket) -> None:
        """Lets it in, and says what it looked like."""
        if len(self._open) >= MOST:
            await socket.send_denial_response(error_reply(503, INTERNAL, "too many probes", {"Retry-After": "5"}))
            return
        try:
            base = public_ws_base(socket.scope, self._public_url)
        except (BadInput, ConfigError) as error:
            await socket.send_denial_response(error_reply(400, BAD_PARAMETER, str(error)))
            return
        seen = {"type": "probe", "ws_url": f"{base}/ws/agent/", "now_ms": time.time_ns() // 1_000_000}
        session = ProbeSession(self._open, msgspec.json.encode(seen))
        socket.scope["extensions"]["link"](session)


class ProbeSession:
    """One of them."""

    def __init__(self, others: "set[ProbeSession]", hello: bytes) -> None:
        self._others = others
        self._hello = hello
        self._timer: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        others.add(self)

    def attached(self, link: Link) -> None:
        """Speaks once, and sets the end."""
        self._link = link
        link.send(self._hello)
        self._timer = asyncio.get_running_loop().call_later(LIFE_S, link.close, close_codes.NORMAL)

    def on_message(self, payload: bytes) -> None:
        """There is nothing to be said here."""
        if self._link is not None:
            self._link.close(close_codes.POLICY_VIOLATION)

    def on_writable(self) -> None:
        """Nothing waits."""

    def on_lost(self) -> None:
        """It is gone."""
        self._others.discard(self)
        if self._timer is not None:
            self._timer.cancel()
