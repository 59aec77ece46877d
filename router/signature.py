"""The signature of control-plane calls, checked before anything looks at them. Knows no route but those that are not signed."""

import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import registration
from cluster.refusal import BAD_PARAMETER
from cluster.replies import error_reply
from cluster.security import Signer


class RequireSignature:
    """ASGI middleware: 403 with one line why, for whatever is not signed as it must be."""

    def __init__(self, app: ASGIApp, signer: Signer) -> None:
        self._app = app
        self._signer = signer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] in registration.PATHS:
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        refusal = refusal_of(self._signer, scope, body)
        if refusal:
            await error_reply(403, BAD_PARAMETER, refusal)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


def refusal_of(signer: Signer, scope: Mapping[str, Any], body: bytes) -> str:
    """Why this request is refused, in one line; "" when it is signed as it must be."""
    headers = dict(scope["headers"])
    timestamp, signature = _text(headers.get(b"x-timestamp")), _text(headers.get(b"x-signature"))
    return signer.refusal(timestamp, signature, scope["method"], scope["path"], body, time.time())


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")
