"""Registrations that are answered without an application: a whole fleet asks for them in one moment.

A shortcut of the HTTP protocol, which has judged the request's head and holds the whole of its body. Owns the registrations that it took
until they are answered. Knows no rule of registering: those are cluster/registration.py's.

Rule: what is not good is declined, before anything was done about it, and goes the ordinary way, where it is said what is wrong with it.
"""

import asyncio
import logging

from cluster.errors import AgentServerError, PeerError, StoreUnavailable
from cluster.exchange import Exchange, answer_json, answer_with
from cluster.proxies import TrustedProxies
from cluster.registration import PATHS, Asked, RegistrationEndpoint
from cluster.replies import reply_to, reply_to_fault

logger = logging.getLogger(__name__)


class HotRegistration:
    """A `cluster.http_protocol.Shortcut`."""

    def __init__(self, endpoint: RegistrationEndpoint, proxies: TrustedProxies) -> None:
        """`proxies`: those in front of the application."""
        self._endpoint = endpoint
        self._proxies = proxies
        self._under_way: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange) -> bool:
        """Takes this request, or declines it."""
        scope = exchange.scope
        if scope["path"] not in PATHS or scope["method"] != "POST":
            return False
        try:
            asked = self._endpoint.read(self._proxies.seen(scope), exchange.body)
        except AgentServerError:
            return False
        task = asyncio.create_task(self._register(exchange, asked), name="register")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return True

    async def _register(self, exchange: Exchange, asked: Asked) -> None:
        try:
            told = await self._endpoint.answer(asked, exchange.is_gone)
        except (PeerError, StoreUnavailable) as error:
            answer_with(exchange, reply_to(error))
        except Exception:
            logger.exception("POST %s failed", exchange.scope["path"])
            answer_with(exchange, reply_to_fault())
        else:
            answer_json(exchange, told)
