"""The node's end of the hand-over, fed over its real Unix socket: what it takes, what it drops, and where it may listen."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.errors import StartError
from node.adoption import Adoption
from tests.support.eventually import eventually


class Tell(asyncio.Protocol):
    """Sends back what it is given, in brackets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"[" + data + b"]")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "n1.sock"


@pytest.fixture
async def adoption(file: Path) -> Any:
    found = Adoption(str(file), Tell)
    await found.start()
    yield found
    found.stop()


@pytest.fixture
def channel(adoption: Adoption, file: Path) -> Iterator[socket.socket]:
    """A router's connection."""
    with channel_to(file) as connected:
        yield connected


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and its connection as a router has it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def channel_to(file: Path) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.connect(str(file))
    return channel


def hand_over(channel: socket.socket, sock: socket.socket, data: bytes) -> None:
    socket.send_fds(channel, [data], [sock.fileno()])
    sock.close()


async def heard(client: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(client, 100)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode) if file.exists() else 0


def remove(file: Path) -> None:
    file.unlink()


Pair = tuple[socket.socket, socket.socket]


async def test_the_protocol_goes_on_where_the_router_has_stopped(
    adoption: Adoption, channel: socket.socket, pair: Pair
) -> None:
    hand_over(channel, pair[1], b"hello")
    assert await heard(pair[0]) == b"[hello]"
    pair[0].send(b"more")
    assert await heard(pair[0]) == b"[more]"
    assert (adoption.adopted, adoption.broken) == (1, 0)


async def test_what_the_router_has_read_comes_before_what_it_has_not(channel: socket.socket, pair: Pair) -> None:
    pair[0].send(b" world")
    hand_over(channel, pair[1], b"hello")
    told = b""
    while len(told.replace(b"][", b"")) < len(b"[hello world]"):
        told += await heard(pair[0])
    assert told.replace(b"][", b"") == b"[hello world]"


async def test_stopping_takes_what_waits_in_connections_not_yet_accepted(
    adoption: Adoption, file: Path, pair: Pair
) -> None:
    with channel_to(file) as channel:
        hand_over(channel, pair[1], b"hello")
        adoption.stop()
        with pytest.raises(BrokenPipeError):
            channel.send(b"late")
    assert await heard(pair[0]) == b"[hello]"


async def test_a_message_sent_amid_the_stopping_fails_at_its_sender(
    adoption: Adoption, channel: socket.socket, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[OSError] = []

    def adopt_while_another_is_sent(sock: socket.socket, data: bytes) -> None:
        with sock:
            try:
                hand_over(channel, sock, data)
            except OSError as error:
                errors.append(error)

    hand_over(channel, pair[1], b"hello")
    monkeypatch.setattr(adoption, "_adopt", adopt_while_another_is_sent)
    adoption.stop()
    assert [error.errno for error in errors] == [errno.EPIPE]


async def test_stopping_twice_is_fine(adoption: Adoption) -> None:
    adoption.stop()
    adoption.stop()


async def test_messages_that_are_no_hand_over_are_counted_and_dropped(
    adoption: Adoption, channel: socket.socket, pair: Pair
) -> None:
    await eventually(lambda: not adoption._channels and "not accepted")
    before = descriptors()
    reading, writing = os.pipe()
    two = socket.socketpair()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.send(b"no socket")
    socket.send_fds(channel, [b"two sockets"], [sock.fileno() for sock in two])
    socket.send_fds(channel, [b"a pipe"], [reading])
    socket.send_fds(channel, [b"no stream"], [datagrams.fileno()])
    for sock in (*two, datagrams):
        sock.close()
    os.close(reading)
    os.close(writing)
    await eventually(lambda: adoption.broken != 4 and f"{adoption.broken} broken")
    assert descriptors() == before
    hand_over(channel, pair[1], b"hello")
    assert await heard(pair[0]) == b"[hello]"


async def test_a_protocol_that_fails_costs_its_own_socket_only(
    file: Path, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> asyncio.Protocol:
        raise ValueError("no protocol")

    adoption = Adoption(str(file), fail)
    await adoption.start()
    with channel_to(file) as channel:
        hand_over(channel, pair[1], b"hello")
        assert await heard(pair[0]) == b""
    assert "no protocol" in caplog.text
    adoption.stop()


async def test_the_file_is_for_its_owner_alone(adoption: Adoption, file: Path) -> None:
    assert mode_of(file) == 0o600


async def test_a_file_left_behind_is_replaced(file: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(file))
    adoption = Adoption(str(file), Tell)
    await adoption.start()
    channel_to(file).close()
    adoption.stop()
    assert mode_of(file) == 0


async def test_stopping_leaves_a_successors_file_alone(adoption: Adoption, file: Path) -> None:
    remove(file)
    successor = Adoption(str(file), Tell)
    await successor.start()
    adoption.stop()
    channel_to(file).close()
    successor.stop()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda file: file.write_text("kept"), "is not a socket"),
        (lambda file: file.parent.rmdir(), "No such file"),
    ],
)
async def test_a_path_that_cannot_be_listened_on_is_an_error(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    file = tmp_path / "folder" / "n1.sock"
    file.parent.mkdir()
    make(file)
    with pytest.raises(StartError, match=said):
        await Adoption(str(file), Tell).start()


async def test_a_second_node_at_one_path_is_an_error(adoption: Adoption, file: Path) -> None:
    with pytest.raises(StartError, match="another process"):
        await Adoption(str(file), Tell).start()


async def test_a_path_that_is_too_long_is_an_error() -> None:
    with pytest.raises(StartError, match="100 bytes"):
        await Adoption("/tmp/" + "x" * 100, Tell).start()
