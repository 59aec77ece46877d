"""Takes over client sockets that the router of the same machine has accepted.

Owns a Unix listener on which the router keeps one connection; each message on it is one open socket and the bytes that were read from
it so far. Knows nothing of HTTP: the bytes go to a protocol of the node's own making, as if the node had accepted and read them.

Rules:
- SOCK_SEQPACKET: a message arrives whole or not at all. Truncated ones, and ones without exactly one socket, are counted and dropped.
- The file is the owner's alone (0600). One left behind by a dead process is replaced; one that still answers is an error.
- Stopping loses nothing: the receiving side is shut first, so that the router's next message fails over there, and what had already
  been sent is still taken.
"""

import array
import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Callable

from cluster.errors import StartError

log = logging.getLogger(__name__)

_MAX_PATH_BYTES = 100  # sockaddr_un has room for 107
_MAX_MESSAGE_BYTES = 256 * 1024  # more than the router sends
_TURN_MESSAGES = 64  # of one connection before others get a turn
_OUT_OF_FILES_S = 1.0  # how long no connection is accepted after the process ran out of descriptors


class Adoption:
    """The node's end of the hand-over."""

    def __init__(self, path: str, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._path = path
        self._make_protocol = make_protocol
        self._listener: socket.socket | None = None
        self._inode = 0
        self._channels: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.adopted = 0
        self.broken = 0

    async def start(self) -> None:
        """Listens. Raises: StartError."""
        try:
            _clear(self._path)
            self._listener = _listen(self._path)
            self._inode = os.stat(self._path).st_ino  # noqa: PTH116
        except OSError as error:
            raise StartError(f"{self._path}: cannot take sockets over here: {error.strerror or error}") from error
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Takes no new sockets; those already sent are still adopted. Stopping twice is fine."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        asyncio.get_running_loop().remove_reader(listener.fileno())
        self._unlink()
        self._accept_all(listener)  # nobody can connect any more, but some may have
        listener.close()
        for channel in list(self._channels):
            self._finish(channel)

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:  # noqa: PTH116  # a successor may have put its own there
                os.unlink(self._path)  # noqa: PTH108

    # Connections of routers

    def _accept(self) -> None:
        if self._listener is not None:
            self._accept_all(self._listener)

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._rest(error)
                return
            channel.setblocking(False)
            self._channels.add(channel)
            asyncio.get_running_loop().add_reader(channel.fileno(), self._receive, channel)

    def _rest(self, error: OSError) -> None:
        """Out of descriptors: the waiting connection would wake us without end."""
        log.error("cannot accept a router's connection: %s", error.strerror)
        if self._listener is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener.fileno())
            loop.call_later(_OUT_OF_FILES_S, self._resume)

    def _resume(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _receive(self, channel: socket.socket) -> None:
        for _ in range(_TURN_MESSAGES):
            if not self._receive_one(channel):
                return

    def _finish(self, channel: socket.socket) -> None:
        with contextlib.suppress(OSError):
            channel.shutdown(socket.SHUT_RD)
        while channel in self._channels and self._receive_one(channel):
            pass
        self._drop(channel)

    def _drop(self, channel: socket.socket) -> None:
        if channel in self._channels:
            self._channels.remove(channel)
            asyncio.get_running_loop().remove_reader(channel.fileno())
            channel.close()

    # Messages

    def _receive_one(self, channel: socket.socket) -> bool:
        """False when there is nothing more for now."""
        try:
            data, ancillary, flags, _ = channel.recvmsg(
                _MAX_MESSAGE_BYTES, socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            self._drop(channel)
            return False
        sockets = _sockets_of(ancillary)
        if data and len(sockets) == 1 and not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            self._adopt(sockets[0], data)
            return True
        for sock in sockets:
            sock.close()
        if data or sockets:
            self.broken += 1
            return True
        self._drop(channel)  # the router is gone
        return False

    def _adopt(self, sock: socket.socket, data: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._open(sock, data), name="adopt a socket")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, sock: socket.socket, data: bytes) -> None:
        opening = _Opening()
        try:
            sock.setblocking(False)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: opening, sock)
        except (OSError, RuntimeError, ValueError) as error:  # the client has gone, or it is no socket for a transport
            log.debug("a socket could not be adopted: %s", error)
            sock.close()
            self.broken += 1
            return
        self._begin(transport, data + opening.early)

    def _begin(self, transport: asyncio.Transport, data: bytes) -> None:
        """The protocol gets what the router had read before anything that the transport reads."""
        if transport.is_closing():
            self.broken += 1
            return
        self.adopted += 1
        try:
            protocol = self._make_protocol()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            protocol.data_received(data)
        except Exception:
            log.exception("the protocol of an adopted socket failed")
            transport.abort()


class _Opening(asyncio.Protocol):
    """Keeps what the client sends between the adoption and the first byte that the real protocol gets."""

    def __init__(self) -> None:
        self.early = b""

    def data_received(self, data: bytes) -> None:
        self.early += data


def _clear(path: str) -> None:
    """Makes way for a new listener. Raises: StartError, OSError."""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise StartError(f"{path}: the path of a Unix socket may have at most {_MAX_PATH_BYTES} bytes")
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"{path}: exists and is not a socket")
    if _answers(path):
        raise StartError(f"{path}: another process takes sockets over here")
    os.unlink(path)  # noqa: PTH108


def _answers(path: str) -> bool:
    with _new_socket() as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # its queue of connections is full
            return True
    return True


def _listen(path: str) -> socket.socket:
    listener = _new_socket()
    try:
        os.fchmod(listener.fileno(), 0o600)  # what bind(2) makes the file with: others never get a moment to connect
        listener.bind(path)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _new_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _sockets_of(ancillary: list[tuple[int, int, bytes]]) -> list[socket.socket]:
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    return [sock for descriptor in descriptors if (sock := _socket_of(descriptor)) is not None]


def _socket_of(descriptor: int) -> socket.socket | None:
    try:
        return socket.socket(fileno=descriptor)
    except OSError:  # a file that is no socket
        os.close(descriptor)
        return None
