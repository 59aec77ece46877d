"""The admin port of a process: `/livez`, `/readyz`, `/metrics`, and of a node `POST /drain`.

Rules: `/livez` answers when the loop does, and never asks Redis. `/readyz` is about taking work: Redis answered of late, and the process
does not drain; whether agents are connected is no matter. `/drain` is for the process's own machine: others are refused.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.metrics import CONTENT_TYPE
from cluster.redis_client import Store
from cluster.refusal import BAD_PARAMETER
from cluster.replies import Edge, app_of, error_reply, json_reply

PROBE_S = 0.5
TELL_S = 1.5  # that it does not answer, before the log says so
GRACE_S = 5.0  # Redis may be away so long before a process says that it is not ready

logger = logging.getLogger(__name__)


class Readiness:
    """Whether this process takes work."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._answered: float | None = None
        self._trouble = ""
        self._is_told = False
        self.is_serving = False  # set once it serves, cleared when it drains

    async def watch(self) -> None:
        """Looks at Redis, for ever."""
        while True:
            self._note(await self._store.trouble(), asyncio.get_running_loop().time())
            await asyncio.sleep(PROBE_S)

    def _note(self, trouble: str, now_s: float) -> None:
        away_s = now_s - (self._answered or now_s)
        self._trouble = trouble
        if not trouble:
            if self._is_told:
                logger.warning("Redis answers again, after %.1f s", away_s)
            self._answered, self._is_told = now_s, False
        elif away_s >= TELL_S and not self._is_told:
            self._is_told = True
            logger.warning("%s: agents' messages wait, calls are refused with 503", trouble)

    @property
    def obstacle(self) -> str:
        """Why it is not ready; "" when it is."""
        if not self.is_serving:
            return "starting or draining"
        return "" if self.has_redis else self._trouble or "Redis does not answer"

    @property
    def has_redis(self) -> bool:
        """Whether Redis answered of late."""
        return self._answered is not None and asyncio.get_running_loop().time() - self._answered <= GRACE_S


def admin_app(
    readiness: Readiness, render: Callable[[], bytes], drain: Callable[[], Awaitable[None]] | None = None
) -> Edge:
    """The app of the admin port. `drain`: lets all agents go; None = there are none."""

    async def livez(_: Request) -> Response:
        return json_reply({"status": "ok"})

    async def readyz(_: Request) -> Response:
        obstacle = readiness.obstacle
        return json_reply({"status": obstacle or "ok"}, 503 if obstacle else 200)

    async def metrics(_: Request) -> Response:
        return Response(render(), media_type=CONTENT_TYPE)

    async def drained(request: Request) -> Response:
        if not _is_of_this_machine(request):
            return error_reply(403, BAD_PARAMETER, "only from this machine: ask a router, POST /api/nodes/{node}/drain")
        if drain is not None:
            await drain()
        return json_reply({"status": "drained"})

    routes = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
    if drain is not None:
        routes.append(Route("/drain", drained, methods=["POST"]))
    return app_of(routes)


def _is_of_this_machine(request: Request) -> bool:
    address = ip_address(request.client.host) if request.client else None
    return address is not None and (getattr(address, "ipv4_mapped", None) or address).is_loopback
