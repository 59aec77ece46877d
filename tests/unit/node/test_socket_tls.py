import random
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually_blocking
from tests.unit.node.frame_text import Frame, close, frame, text
from tests.unit.node.socket_server import Peer, Server, request, serving

MIB = 1 << 20


@pytest.fixture
def name() -> str:
    return f"{random.getrandbits(60):x}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([openssl, *command.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def tls_server(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with serving(tls=context) as server:
        yield server


@pytest.fixture
def tls_peer(tls_server: Server, certificate: Path, name: str) -> Iterator[Peer]:
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    with Peer(tls_server.port, request(f"/ws/agent/{name}"), context) as peer:
        yield peer.upgraded()


def test_over_tls_the_scheme_is_wss(tls_server: Server, tls_peer: Peer, name: str) -> None:
    assert tls_server.app.scopes[name]["scheme"] == "wss"


@pytest.mark.parametrize("size", [1, 65536, 8 * MIB])
def test_over_tls_messages_come_back(tls_peer: Peer, size: int) -> None:
    tls_peer.send(text(b"a" * size))
    assert tls_peer.frame() == Frame(0x81, b"a" * size)


def test_over_tls_a_close_is_answered(tls_server: Server, tls_peer: Peer, name: str) -> None:
    tls_peer.send(close(1000))
    assert tls_peer.close_code() == 1000
    tls_peer.socket.close()
    session = tls_server.session(name)
    eventually_blocking(lambda: session.lost != 1)


def test_over_tls_a_close_frame_survives_what_is_still_unread(tls_peer: Peer) -> None:
    tls_peer.send(frame(2, b"x"), b"\x00" * 300_000)
    assert tls_peer.close_code() == 1003


def test_over_tls_a_peer_that_never_says_goodbye_is_dropped(tls_server: Server, tls_peer: Peer, name: str) -> None:
    tls_peer.send(text(b"bye"))
    session = tls_server.session(name)
    eventually_blocking(lambda: session.lost != 1)


def test_over_tls_a_reader_that_stops_is_cut(tls_server: Server, tls_peer: Peer, name: str) -> None:
    tls_peer.send(text(b"flood400"))
    session, link = tls_server.session(name), tls_server.link(name)
    eventually_blocking(lambda: session.lost != 1)
    assert link.close_code == 4413


def test_over_tls_a_pause_keeps_the_rest(tls_server: Server, tls_peer: Peer, name: str) -> None:
    link = tls_server.link(name)
    tls_peer.send(text(b"pause"), text(b"2"))
    eventually_blocking(lambda: not link._intake.holds and "not paused")
    tls_peer.send(text(b"3"))
    tls_server.do(link.resume)
    assert [tls_peer.frame().payload for _ in range(2)] == [b"2", b"3"]
