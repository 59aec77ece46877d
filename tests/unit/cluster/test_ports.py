"""Sockets that are bound for others."""

import errno
import socket

import pytest

from cluster import ports
from cluster.errors import StartError
from tests.support.ports import free_port


def test_a_port_in_use_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as refusal:
            ports.listen("127.0.0.1", port)
    assert (
        str(refusal.value)
        == f"port {port} on 127.0.0.1 is in use by another program: stop it, or choose another with --port"
    )


def test_a_port_whose_connections_linger_can_be_had_at_once() -> None:
    with ports.listen("127.0.0.1", 0) as listening:
        address = listening.getsockname()
        with socket.create_connection(address) as client:
            listening.setblocking(True)
            accepted, _ = listening.accept()
            accepted.close()  # the side that closes first keeps the port in TIME_WAIT
            assert client.recv(1) == b""
    ports.listen(*address).close()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", "no interface of this machine has that address"),
        ("no.such.host.invalid", "cannot listen on port 8080 on no.such"),
    ],
)
def test_an_address_that_is_not_ours_is_named(host: str, words: str) -> None:
    with pytest.raises(StartError, match=words):
        ports.listen(host, 8080)


def test_a_port_that_needs_privileges_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("cluster.ports._listen", refuse)
    with pytest.raises(StartError, match="port 80 on all addresses needs privileges"):
        ports.listen("", 80)


def test_a_preferred_port_is_taken_when_it_is_free() -> None:
    port = free_port()
    with ports.listen_near("127.0.0.1", port) as first, ports.listen_near("127.0.0.1", port) as second:
        assert first.getsockname()[1] == port
        assert second.getsockname()[1] not in {0, port}
    with ports.listen_near("127.0.0.1", 66_000) as beyond:
        assert beyond.getsockname()[1] > 0


def test_urls_write_ipv6_addresses_in_brackets() -> None:
    assert ports.http_url("::1", 80) == "http://[::1]:80"
    assert ports.http_url("127.0.0.1", 80) == "http://127.0.0.1:80"
