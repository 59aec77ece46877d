"""`agent-server health`: 0 for well, 1 for anything else, and never a traceback."""

from collections.abc import Iterator

import pytest

from cluster import cli
from cluster.ports import ADMIN_ABOVE
from tests.support.ports import free_port
from tests.unit.client.test_api import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def health(*arguments: str) -> int:
    return cli.run(["health", *arguments])


@pytest.mark.parametrize(("arguments", "path"), [((), "/readyz"), (("--live",), "/livez")])
def test_a_process_that_says_ok_is_well(
    server: Server, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], path: str
) -> None:
    server.answer = (200, "application/json", b'{"status": "ok"}')
    assert health("--admin-url", server.url, *arguments) == 0
    assert [asked[:2] for asked in server.asked] == [("GET", path)]
    assert capsys.readouterr().out == "ok\n"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, b'{"status": "Redis does not answer"}', "answers 503: Redis does not answer"),
        (404, b"<html>", "answers 404: what is no agent-server's to say"),
        (500, b'["\\u001b[31m"]', "answers 500: what is no agent-server's to say"),
    ],
)
def test_any_other_answer_is_exit_code_1_and_its_reason(
    server: Server, capsys: pytest.CaptureFixture[str], status: int, body: bytes, words: str
) -> None:
    server.answer = (status, "application/json", body)
    assert health("--admin-url", server.url) == 1
    assert capsys.readouterr().err == f"agent-server: {server.url} {words}\n"


def test_nobody_there_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert health("--admin-url", f"http://127.0.0.1:{free_port()}") == 1
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:9080", "http://:9080", "http://h:port"])
def test_what_is_no_admin_url_is_a_slip(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert health("--admin-url", url) == 2
    assert "--admin-url: expected http://host:port" in capsys.readouterr().err


def test_without_a_url_it_asks_where_the_settings_lead(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SERVER_SERVER_ADMIN_HOST", "0.0.0.0")
    monkeypatch.setenv("AGENT_SERVER_SERVER_PORT", str(int(server.url.rpartition(":")[2]) - ADMIN_ABOVE))
    assert health() == 0


def test_a_port_that_nobody_knows_is_a_slip(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_SERVER_SERVER_PORT", "0")
    assert health() == 2
    assert "--admin-url says where it is" in capsys.readouterr().err
