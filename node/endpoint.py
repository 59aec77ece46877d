"""`GET /ws/agent/{id}`: the handshake, up to the session.

Rules: refused before the upgrade, with a JSON body. 401, 403 and 404 are said to agents only when Redis has said so: they register anew on
them, at once; whatever is in doubt is 503. A storm is queued for some seconds before it is refused.
"""

import asyncio
import logging
import re
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.websockets import WebSocket

from cluster import security
from cluster.errors import BadInput, PeerError, StoreUnavailable, WrongToken
from cluster.proxies import Receive, Scope, Send
from cluster.refusal import BAD_PARAMETER
from cluster.registry import Claim, Contested
from cluster.replies import INTERNAL, error_reply, reply_to
from node.hub import Hub
from node.presence import Presence
from node.session import Crew, Patience, Session

AT_ONCE = 512  # handshakes under way; more wait
QUEUE_S = 8.0  # an agent gives its handshake up after 10
PROTOCOL = "agent-token"
_REASONS: dict[type[Exception], str] = {StoreUnavailable: "unavailable", WrongToken: "token"}
_AGENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

logger = logging.getLogger(__name__)


class Turned(PeerError):
    """This handshake is refused: `reply` says why."""

    def __init__(self, reply: Response, reason: str) -> None:
        super().__init__(reason)
        self.reply = reply


class AgentEndpoint:
    """Where agents' WebSockets are let in."""

    def __init__(
        self, crew: Crew, hub: Hub, presence: Presence,
        *, max_connections: int, patience: Patience, allowed_origins: tuple[str, ...], may_enter: Callable[[], bool],
        count: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`may_enter`: False while the node drains."""
        self._crew = crew
        self._hub = hub
        self._presence = presence
        self._max_connections = max_connections
        self._patience = patience
        self._allowed_origins = frozenset(allowed_origins)
        self._may_enter = may_enter
        self._count = count
        self._turnstile = asyncio.Semaphore(AT_ONCE)

    async def enter(self, scope: Scope, receive: Receive, send: Send, agent_id: str) -> None:
        """Lets the agent in, or says why not."""
        try:
            await self._wait_in_line()
            try:
                self._accept(scope, await self._admit(scope, agent_id))
            finally:
                self._turnstile.release()
        except Turned as turned:
            self._count(str(turned))
            await WebSocket(scope, receive, send).send_denial_response(turned.reply)
        except (PeerError, StoreUnavailable) as error:
            self._count(_REASONS.get(type(error), "unknown"))
            await WebSocket(scope, receive, send).send_denial_response(reply_to(error))

    async def _wait_in_line(self) -> None:
        if not self._turnstile.locked():
            await self._turnstile.acquire()
            return
        try:
            async with asyncio.timeout(QUEUE_S):
                await self._turnstile.acquire()
        except TimeoutError:
            raise Turned(_busy("too many handshakes at once"), "queue") from None

    async def _admit(self, scope: Scope, agent_id: str) -> Claim:
        self._check_room(scope)
        if _AGENT_ID.fullmatch(agent_id) is None:
            raise BadInput("agent id: 1 to 64 of A-Z a-z 0-9 . _ -")
        claim = await self._presence.claim(agent_id, _address(scope), security.token_hash(_token(scope)))
        if isinstance(claim, Contested):
            if claim.is_first:
                logger.warning(
                    "two hosts seem to share one token: %s is held off, %s stays", _address(scope), claim.address,
                    extra={"agent_id": agent_id},
                )  # fmt: skip
            raise Turned(_busy("this agent was taken over too often"), "contested")
        return claim

    def _check_room(self, scope: Scope) -> None:
        if not self._may_enter():
            raise Turned(_busy("draining"), "draining")
        if self._presence.is_away_too_long:
            raise Turned(_busy("Redis does not answer"), "unavailable")
        if len(self._hub) >= self._max_connections:
            raise Turned(_busy("agent.max_connections is reached"), "full")
        origin = Headers(scope=scope).get("origin") if self._allowed_origins else None
        if origin and not self._allowed_origins & {origin, "*"}:
            raise Turned(error_reply(403, BAD_PARAMETER, "origin is not allowed"), "origin")

    def _accept(self, scope: Scope, claim: Claim) -> None:
        session = Session(self._crew, claim.profile, claim, _address(scope), self._patience)
        scope["extensions"]["link"](session, PROTOCOL if PROTOCOL in scope["subprotocols"] else None)


def _token(scope: Scope) -> str:
    """What was offered beside `agent-token`, or alone."""
    return next((offer for offer in scope["subprotocols"] if offer != PROTOCOL), "")


def _address(scope: Scope) -> str:
    client = scope["client"]
    return client[0] if client else ""


def _busy(error: str) -> Response:
    return error_reply(503, INTERNAL, error, {"Retry-After": "5"})
