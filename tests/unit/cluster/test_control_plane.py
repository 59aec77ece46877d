"""What the control plane is asked, and how its answers are understood, whatever they are."""

import asyncio
import logging
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane, Trouble
from cluster.http_call import AnswerTooLarge, NoAnswer, Server
from cluster.settings import ControlPlane as Config
from tests.support.asked_control_plane import ACCEPTED, REFUSED, AskedControlPlane, http
from tests.support.ports import free_port

TOKEN = "canary-of-the-bearer"


def plane(url: str, timeout_s: float = 5.0, *, scope: str = "", token: str = TOKEN) -> ControlPlane:
    return ControlPlane(Config(url=url, token=token, timeout_s=timeout_s, scope=scope, poll=True), 1000)


# ---- registrations


async def test_a_registration_is_shown_with_our_bearer_and_as_it_was_written() -> None:
    async with AskedControlPlane(ACCEPTED) as asked:
        assert await plane(f"{asked.url}/base/").accepts(b'{"token":"x"}')
    call = asked.calls[0]
    assert (call.method, call.path, call.body) == ("POST", "/base/api/agents/register/", b'{"token":"x"}')
    assert call.headers["authorization"] == f"Bearer {TOKEN}"
    assert call.headers["content-type"] == "application/json"
    assert call.headers["host"] == f"127.0.0.1:{asked.port}"


async def test_without_a_token_there_is_no_bearer() -> None:
    async with AskedControlPlane(ACCEPTED) as asked:
        await plane(asked.url, token="").accepts(b"{}")
    assert "authorization" not in asked.calls[0].headers


async def test_only_403_that_says_refused_refuses() -> None:
    async with AskedControlPlane(REFUSED) as asked:
        assert not await plane(asked.url).accepts(b"{}")


@pytest.mark.parametrize(
    "answer",
    [
        http(403),
        http(403, {"detail": "CSRF"}),
        http(403, {"refused": "true"}),
        http(403, {"refused": 1}),
        http(403, [True]),
        http(403, b"\xff\xfe"),
        http(401, {"refused": True}),
        http(404, {"refused": True}),
        http(500, {"refused": True}),
        http(200, {"refused": True}),
        http(200, b"<html>a portal</html>"),
        http(204),
        http(302, head="Location: http://127.0.0.1:1/\r\n"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\xff" * 600,
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (4 << 20),
    ],
    ids=range(19),
)
async def test_whatever_else_comes_is_no_answer_and_one_line(answer: bytes) -> None:
    async with AskedControlPlane(answer) as asked:
        with pytest.raises(NoAnswer) as said:
            await plane(asked.url).accepts(b'{"token":"canary"}')
    assert str(said.value).isprintable()
    assert "canary" not in str(said.value)


async def test_a_control_plane_that_hangs_is_given_up() -> None:
    async with AskedControlPlane(None) as asked:
        with pytest.raises(NoAnswer, match=r"no answer within 0\.1 s"):
            await plane(asked.url, 0.1).accepts(b"{}")
        assert len(asked.calls) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "name.invalid", "a" * 70 + ".invalid"])
async def test_a_control_plane_that_is_not_there_is_no_answer(host: str) -> None:
    with pytest.raises(NoAnswer):
        await plane(f"http://{host}:{free_port()}").accepts(b"{}")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + ACCEPTED,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.0 201 OK\r\nConnection: close\r\n\r\n{}",
    ],
    ids=["interim", "chunked", "until the end", "1.0"],
)
async def test_all_forms_of_an_answer_are_read(answer: bytes) -> None:
    async with AskedControlPlane(answer) as asked:
        assert await plane(asked.url).accepts(b"{}")


# ---- tasks


async def test_a_task_is_asked_for_by_agent_and_comes_as_it_was_written() -> None:
    body = b' {"id" : "1",\n "x": 1.50} '
    async with AskedControlPlane(http(200, body)) as asked:
        assert await plane(asked.url, scope="eu").next_task("a-1", 7) == body
        await plane(asked.url).next_task("a/1?x", 0)
    assert asked.paths() == ["/api/agents/a-1/next-task/", "/api/agents/a%2F1%3Fx/next-task/"]
    assert [call.json() for call in asked.calls] == [{"host_id": 7, "scope": "eu"}, {}]
    assert asked.calls[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("status", [204, 404])
async def test_there_may_be_none(status: int) -> None:
    async with AskedControlPlane(http(status)) as asked:
        assert await plane(asked.url).next_task("a", 0) is None


@pytest.mark.parametrize("status", [201, 301, 400, 401, 403, 429, 500, 503])
async def test_any_other_status_is_no_answer(status: int) -> None:
    async with AskedControlPlane(http(status)) as asked:
        with pytest.raises(NoAnswer, match=str(status)):
            await plane(asked.url).next_task("a", 0)


async def test_a_task_that_is_too_large_is_told_apart() -> None:
    async with AskedControlPlane(http(200, b"x" * 1001)) as asked:
        with pytest.raises(AnswerTooLarge):
            await plane(asked.url).next_task("a", 0)
        asked.answer = http(200, b"x" * 1000)
        assert await plane(asked.url).next_task("a", 0) == b"x" * 1000


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, *command.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


async def test_https_asks_for_a_certificate_that_is_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with AskedControlPlane(ACCEPTED, tls=context) as asked:
        with pytest.raises(NoAnswer, match=r"(?i)certificate"):
            await plane(asked.url).accepts(b"{}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        assert await plane(asked.url).accepts(b"{}")


@pytest.mark.parametrize(
    ("url", "authority"),
    [("http://h", "h"), ("http://h:8000/x", "h:8000"), ("http://u:p@[::1]:1/", "[::1]:1"), ("https://h?x=1", "h")],
)
def test_the_host_is_the_urls_without_its_credentials(url: str, authority: str) -> None:
    head = Server(url)._head("/x", 0, {}).decode()
    assert f"\r\nHost: {authority}\r\n" in head
    assert "u:p" not in head


# ---- trouble


def test_trouble_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trouble = Trouble("nothing goes on", calm_s=10.0)
    trouble.end(0.0)
    for now_s in (1.0, 2.0, 3.0):
        trouble.begin(NoAnswer("it answers 500"), now_s)
    trouble.end(5.0)  # one good answer between bad ones
    trouble.begin(NoAnswer("it answers 500"), 6.0)
    trouble.end(16.0)
    trouble.end(17.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert [record.getMessage() for record in caplog.records] == [
        "the control plane cannot be asked, nothing goes on: it answers 500",
        "the control plane answers again",
    ]


async def test_calls_leave_no_connection_open() -> None:
    async with AskedControlPlane(ACCEPTED) as asked:
        for _ in range(5):
            await plane(asked.url).accepts(b"{}")
        await asyncio.sleep(0)
        assert asked.at_once <= 2
