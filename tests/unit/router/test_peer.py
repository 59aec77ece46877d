"""The router's connection to one node: its load, and what it does when the system or the node cannot take more."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.peer import Peer
from tests.support.eventually import eventually


@pytest.fixture
def node(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(tmp_path / "n1.sock"))
        listener.listen(1)
        yield listener


@pytest.fixture
def client() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield theirs


def nothing() -> None:
    """For peers that never become full."""


def shortage(*_: object) -> int:
    raise OSError(errno.ETOOMANYREFS, "Too many references")


def not_ready(peer: Peer) -> str:
    peer.revive()
    return "" if peer.is_ready else "not ready"


async def test_a_new_report_replaces_what_was_counted_and_an_old_one_fades(tmp_path: Path) -> None:
    peer = Peer("n1", str(tmp_path / "n1.sock"), 5, nothing)
    peer._given = 8
    assert peer.load == 13
    peer.report(5)
    assert peer.load == 9
    peer.report(12)
    assert peer.load == 12


async def test_a_shortage_of_the_system_is_waited_out(
    node: socket.socket, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer("n1", str(node.getsockname()), 0, nothing)
    peer.revive()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "send_fds", shortage)
        assert not peer.send(b"data", client.fileno())
    assert not peer.is_ready
    await eventually(lambda: not_ready(peer))
    assert peer.send(b"data", client.fileno())
    assert peer.load == 1
    peer.close()


async def test_a_full_peer_is_ready_when_it_has_room(node: socket.socket, client: socket.socket) -> None:
    calls: list[str] = []
    peer = Peer("n1", str(node.getsockname()), 0, lambda: calls.append("ready"))
    peer.revive()
    with node.accept()[0] as channel:
        while peer.send(b"x" * 1000, client.fileno()):
            pass
        peer.revive()
        assert (peer.is_ready, calls) == (False, [])
        taken = 0
        while taken < peer.load:
            channel.recv(2000)
            taken += 1
        await eventually(lambda: not calls and "not told")
        assert peer.is_ready
        peer.close()


async def test_a_peer_that_hangs_up_is_not_ready_until_it_is_back(node: socket.socket, client: socket.socket) -> None:
    peer = Peer("n1", str(node.getsockname()), 0, nothing)
    peer.revive()
    node.accept()[0].close()
    await eventually(lambda: peer.is_ready and "still ready")
    assert not peer.send(b"data", client.fileno())
    await eventually(lambda: not_ready(peer))
    assert peer.send(b"data", client.fileno())
    peer.close()
