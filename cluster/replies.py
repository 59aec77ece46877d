"""What HTTP callers are answered: JSON bodies, and the one place where errors become statuses.

| error | status | code |
| --- | --- | --- |
| BadInput | 400 | 1002 |
| WrongToken | 401 | 1002 |
| Refused | 403 | 1002 |
| UnknownAgent, UnknownTask, no such path | 404 | 1003 |
| wrong method | 405 | 1002 |
| TaskConflict | 409 | 1002 |
| TooManyNew | 429 | 1002 |
| MailboxFull | 503 | 1001 |
| NotConnected | 503 | 2001 |
| StoreUnavailable | 503 | 1001 |
| anything else: ours | 500 | 1001 |
"""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from cluster import errors
from cluster.redis_client import RETRY_AFTER_S
from cluster.refusal import BAD_PARAMETER, NOT_FOUND

INTERNAL, NOT_CONNECTED = 1001, 2001  # beside those of `cluster.refusal`

logger = logging.getLogger(__name__)
_encode = msgspec.json.encode
_ANSWERS: dict[type[Exception], tuple[int, int]] = {
    errors.BadInput: (400, BAD_PARAMETER),
    errors.WrongToken: (401, BAD_PARAMETER),
    errors.Refused: (403, BAD_PARAMETER),
    errors.UnknownAgent: (404, NOT_FOUND),
    errors.UnknownTask: (404, NOT_FOUND),
    errors.UnknownNode: (404, NOT_FOUND),
    errors.TaskConflict: (409, BAD_PARAMETER),
    errors.TooManyNew: (429, BAD_PARAMETER),
    errors.MailboxFull: (503, INTERNAL),
    errors.NotConnected: (503, NOT_CONNECTED),
    errors.StoreUnavailable: (503, INTERNAL),
}


def json_reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; success is 200."""
    return Response(_encode(content), status, headers, "application/json")


def error_reply(status: int, code: int, error: str, headers: dict[str, str] | None = None) -> Response:
    """An error answer: `{"code", "error"}`."""
    return json_reply({"code": code, "error": error}, status, headers)


def reply_to(error: Exception) -> Response:
    """The answer to an error that was raised on purpose."""
    status, code = _ANSWERS[type(error)]
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else None
    return error_reply(status, code, str(error), headers)


def reply_to_fault() -> Response:
    """The answer to an error that nobody meant: ours, and its text is not for callers."""
    return error_reply(500, INTERNAL, "internal error")


async def _on_known(_: Request, error: Exception) -> Response:
    return reply_to(error)


async def _on_http(_: Request, error: HTTPException) -> Response:
    code = NOT_FOUND if error.status_code == 404 else BAD_PARAMETER
    return error_reply(error.status_code, code, error.detail.lower(), dict(error.headers or {}))


async def _on_unmeant(_: Request, __: Exception) -> Response:
    return reply_to_fault()


HANDLERS: dict[Any, Any] = {
    **dict.fromkeys(_ANSWERS, _on_known), HTTPException: _on_http, Exception: _on_unmeant,
}  # fmt: skip


class Call(Route):
    """A path whose methods are these alone, whatever pattern of a later route it fits: any other method is 405 here."""

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), child


def app_of(routes: Sequence[BaseRoute]) -> "Edge":
    """An app of these routes."""
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False
    return Edge(app)


class Edge:
    """The outside of an app.

    Every path works with and without its trailing slash, without a redirect: a redirect loses signatures. An exception that nobody
    meant is our fault: Starlette has answered it with 500 (by HANDLERS) and passed it on; here it is logged, once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        path = scope["path"]
        if len(path) > 1 and path[-1] == "/":
            scope = {**scope, "path": path[:-1]}
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:  # it hung up in the middle of its request, and hears no answer
            logger.info("%s %s: the caller hung up", scope["method"], scope["path"])
        except Exception:
            if scope["type"] != "http":  # the handshake's own edge answers
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
