"""Calls, their signatures, and each failure as one line with its exit code."""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.client import commands_nodes
from cluster.client.api import Api
from cluster.client.outcome import FAILED, NOT_FOUND, REFUSED, TIMEOUT, ComeBack, Failed
from cluster.errors import ConfigError
from cluster.security import Signer
from tests.support.ports import free_port

SECRET = "a-shared-secret"


class Server:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, str, bytes] = (200, "application/json", b"{}")
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        ours = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                ours.asked.append((self.command, self.path, dict(self.headers), body))
                status, kind, answer = ours.answer
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_a_path_is_quoted_for_the_wire_and_signed_as_it_is_read(server: Server) -> None:
    Api(server.url + "/", SECRET).post("api", "agents", "a/b ü", "tasks", body={"x": "ü"})
    [(method, path, headers, body)] = server.asked
    assert (method, path, body) == ("POST", "/api/agents/a%2Fb%20%C3%BC/tasks", '{"x": "ü"}'.encode())
    signed = Signer(SECRET, 0).sign(headers["X-Timestamp"], "POST", "/api/agents/a/b ü/tasks", body)
    assert headers["X-Signature"] == signed


def test_a_query_is_not_signed(server: Server) -> None:
    Api(server.url, SECRET).get("api", "agents", query={"label": "env=prod"})
    [(_, path, headers, body)] = server.asked
    assert path == "/api/agents?label=env%3Dprod"
    assert headers["X-Signature"] == Signer(SECRET, 0).sign(headers["X-Timestamp"], "GET", "/api/agents", body)


def test_without_a_secret_nothing_is_signed(server: Server) -> None:
    Api(server.url).get("api", "metrics")
    assert "X-Signature" not in server.asked[0][2]


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (
            403,
            b'{"error":"X-Signature is required"}',
            REFUSED,
            "X-Signature is required; set AUTH_SHARED_SECRET to the server's secret, or name its settings with --config",
        ),
        (404, b'{"code":1003,"error":"no such agent"}', NOT_FOUND, "no such agent"),
        (503, b'{"error":"Redis does not answer"}', FAILED, "cannot do it now: Redis does not answer; try again later"),
        (409, b'{"error":"used\\n\\u001b[2J"}', FAILED, "answers 409: used\\n\\x1b[2J"),
        (500, b"[]", FAILED, "answers 500: no reason given"),
        (200, b"<html>", FAILED, "is no agent-server: it answers 200 with application/json"),
    ],
)
def test_a_refusal_is_one_line(server: Server, status: int, body: bytes, code: int, words: str) -> None:
    server.answer = (status, "application/json", body)
    with pytest.raises(Failed) as failed:
        Api(server.url).get("api", "agents", "7")
    assert failed.value.exit_code == code
    assert str(failed.value).endswith(words)


@pytest.mark.parametrize("collection", ["agents", "nodes", "metrics", "self"])
def test_who_does_not_serve_what_every_router_serves_is_no_router(server: Server, collection: str) -> None:
    server.answer = (404, "application/json", b'{"code":1003,"error":"not found"}')
    with pytest.raises(Failed) as failed:
        Api(server.url).get("api", collection)
    assert failed.value.exit_code == FAILED
    assert str(failed.value) == f"{server.url} is no router: --url names one, or the load balancer before it"


def test_an_admin_port_that_is_no_nodes_is_told_from_one(server: Server) -> None:
    server.answer = (404, "application/json", b'{"code":1003,"error":"not found"}')
    port = server.url.rpartition(":")[2]
    with pytest.raises(Failed) as failed:
        commands_nodes.drain(of_this_machine=True, admin_port=int(port))
    assert str(failed.value) == f"{server.url} is not a node's admin port: give --admin-port, or name a NODE"


def test_nothing_listens() -> None:
    with pytest.raises(ComeBack, match=r"nothing listens there; is agent-server running\?"):
        Api(f"http://127.0.0.1:{free_port()}").get("api", "metrics")


def test_no_answer_in_time_is_a_timeout() -> None:
    import socket  # noqa: PLC0415 - here alone

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(ComeBack, match=r"did not answer within 0\.1 s") as failed:
            Api(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1).get("api", "metrics")
        assert failed.value.exit_code == TIMEOUT


@pytest.mark.parametrize("url", ["", "host:80", "ftp://h", "http://", "http://h:x", "http://h/path", "http://u:p@h"])
def test_a_url_that_cannot_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match="--url: expected"):
        Api(url)
