"""What HTTP callers are answered, and that every path works with and without its slash."""

import json
import logging
from typing import Any
from unittest.mock import AsyncMock

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from cluster import errors
from cluster.replies import HANDLERS, Edge, error_reply, json_reply, reply_to

ANSWERS = [
    (errors.BadInput, 400, 1002),
    (errors.Refused, 403, 1002),
    (errors.UnknownAgent, 404, 1003),
    (errors.UnknownTask, 404, 1003),
    (errors.TaskConflict, 409, 1002),
    (errors.TooManyNew, 429, 1002),
    (errors.MailboxFull, 503, 1001),
    (errors.NotConnected, 503, 2001),
    (errors.StoreUnavailable, 503, 1001),
]
by_name = pytest.mark.parametrize(
    ("error", "status", "code"), ANSWERS, ids=lambda value: getattr(value, "__name__", "")
)


async def answer(app: ASGIApp, path: str, method: str = "GET") -> tuple[int, dict[str, str], Any]:
    """Status, headers and decoded body of one request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def app_that(does: Any) -> Edge:
    return Edge(Starlette(routes=[Route("/x", does), Route("/", does)], exception_handlers=HANDLERS))


def raising(error: Exception) -> Edge:
    async def endpoint(_: Request) -> Response:
        raise error

    return app_that(endpoint)


async def path_seen(request: Request) -> Response:
    return json_reply({"path": request.url.path})


@by_name
async def test_an_error_becomes_its_status_and_code(error: type[Exception], status: int, code: int) -> None:
    found, headers, body = await answer(raising(error("why it is so")), "/x")
    assert (found, body) == (status, {"code": code, "error": "why it is so"})
    assert headers["content-type"] == "application/json"


@by_name
def test_who_may_come_back_is_told_when(error: type[Exception], status: int, code: int) -> None:
    assert ("retry-after" in reply_to(error("x")).headers) == (status in (429, 503))


@pytest.mark.parametrize("path", ["/y", "/y/", "/x/y"])
async def test_an_unknown_path_is_404_in_our_shape(path: str) -> None:
    status, _, body = await answer(app_that(path_seen), path)
    assert (status, body["code"]) == (404, 1003)


async def test_a_wrong_method_is_405_with_what_is_allowed() -> None:
    status, headers, body = await answer(app_that(path_seen), "/x", "POST")
    assert (status, body["code"]) == (405, 1002)
    assert "GET" in headers["allow"]


@pytest.mark.parametrize("path", ["/x", "/x/"])
async def test_a_path_works_with_and_without_its_slash_and_without_a_redirect(path: str) -> None:
    status, headers, body = await answer(app_that(path_seen), path)
    assert (status, body) == (200, {"path": "/x"})
    assert "location" not in headers


async def test_the_root_stays_the_root() -> None:
    assert (await answer(app_that(path_seen), "/"))[0] == 200


async def test_what_nobody_meant_is_500_logged_once_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "cluster.replies"):
        status, _, body = await answer(raising(KeyError("hunter2")), "/x")
    assert (status, body) == (500, {"code": 1001, "error": "internal error"})
    assert [record.name for record in caplog.records] == ["cluster.replies"]


async def test_a_caller_that_hung_up_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await answer(raising(ClientDisconnect()), "/x")
    assert not caplog.records


async def test_a_handshakes_own_edge_answers_for_it() -> None:
    broken: Any = AsyncMock(side_effect=KeyError)
    with pytest.raises(KeyError):
        await Edge(broken)({"type": "websocket", "path": "/ws/"}, broken, broken)


def test_replies_are_json() -> None:
    assert json_reply({"ü": [1, None]}).body == '{"ü":[1,null]}'.encode()
    assert json.loads(bytes(error_reply(400, 1002, 'a"b').body)) == {"code": 1002, "error": 'a"b'}
