"""Control planes are answered within three seconds, also when Redis is not."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import registration
from cluster.errors import StoreUnavailable
from cluster.replies import reply_to

WITHIN_S = 2.8
LATE = StoreUnavailable("Redis does not answer in time")


class InTime:
    """ASGI middleware: what takes too long is let go of, and answered 503. What was asked may be done all the same.

    But for registrations: agents wait longer, and must not be refused.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] in registration.PATHS:
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with asyncio.timeout(WITHIN_S) as deadline:
                await self._app(scope, receive, noting)
        except TimeoutError:
            if has_begun or not deadline.expired():
                raise
            await reply_to(LATE)(scope, receive, send)
