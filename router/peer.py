"""The router's connection to one node of its machine: open sockets go out, each with the bytes read from it.

Owns one SOCK_SEQPACKET connection, kept open. A message is whole or not sent; the kernel's queue of it is kept short, because what
is in it cannot be taken back. Nothing is queued here. Knows neither HTTP nor what is handed over.

A peer is ready when it is connected and its queue has room. A full one becomes ready by itself; one that cannot be reached, or to
which the system cannot carry sockets for now, when `revive` is called.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

_SEND_BUFFER_BYTES = 16 * 1024  # of which the kernel makes twice: room for the largest message, or two dozen usual ones
_SCARCE = {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_RETRY_S = 0.2


class Peer:
    """One node, as long as it is in the directory."""

    def __init__(self, node_id: str, path: str, load: int, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called when a peer that was full has room again."""
        self.node_id = node_id
        self.path = path
        self.is_ready = False
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._is_full = False
        self._retry_at_s = 0.0
        self._reported = load
        self._given = 0

    @property
    def load(self) -> int:
        """What the node has reported, and what it was given since."""
        return self._reported + self._given

    def report(self, load: int) -> None:
        """Takes the node's own figure. The same as before may be the same report: what was given since then fades by half."""
        self._given = 0 if load != self._reported else self._given // 2
        self._reported = load

    def revive(self) -> None:
        """Makes a peer ready again that failed some time ago, if it can be."""
        if self.is_ready or self._is_full or self._loop.time() < self._retry_at_s:
            return
        if self._socket is None:
            self._connect()
        else:
            self.is_ready = True

    def send(self, data: bytes, descriptor: int) -> bool:
        """Hands one socket over. False: it could not be, and this peer is not ready any more."""
        if self._socket is None:
            return False
        try:
            socket.send_fds(self._socket, [data], [descriptor])
        except BlockingIOError:
            self._wait_for_room(self._socket)
        except OSError as error:
            self._fail(error)
        else:
            self._given += 1
            return True
        return False

    def close(self) -> None:
        """Ends the connection; the node still takes what was sent."""
        self.is_ready = False
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            log.debug("node %s: %s: %s", self.node_id, self.path, error)
            self._rest()
            return
        self._socket = sock
        self.is_ready = True
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        """The node says nothing here: whatever can be read is the end."""
        if self._socket is None:
            return
        try:
            if self._socket.recv(64):
                return
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(str(error))
        else:
            self._lose("it hung up")

    def _wait_for_room(self, sock: socket.socket) -> None:
        self.is_ready = False
        self._is_full = True
        self._loop.add_writer(sock.fileno(), self._on_writable, sock)

    def _on_writable(self, sock: socket.socket) -> None:
        self._loop.remove_writer(sock.fileno())
        self._is_full = False
        self.is_ready = True
        self._on_ready()

    def _fail(self, error: OSError) -> None:
        if error.errno in _SCARCE:  # the system's; the connection itself is good
            log.warning("node %s: cannot send it a socket for now: %s", self.node_id, error)
            self._rest()
        else:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        log.info("node %s takes no sockets any more: %s", self.node_id, why)
        self.close()
        self._is_full = False
        self._rest()

    def _rest(self) -> None:
        self.is_ready = False
        self._retry_at_s = self._loop.time() + _RETRY_S
