"""Listening sockets that a process binds for its children, so that their restarts lose no connection attempt.

Must not know who will accept on them. Rule: a port that cannot be had is a StartError of one line that says what to do.
"""

import errno
import socket

from cluster.errors import StartError

ADMIN_ABOVE = 1000  # a process that is told only its port has its admin port so far above it
_BACKLOG = 4096  # a fleet that comes back at once waits here; the kernel caps it at net.core.somaxconn
_LAST_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port; port 0 takes a free one.

    Raises: StartError, naming host and port, when they cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _listen(family, address)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA refuses
        raise StartError(_why_not(host, port, error)) from error


def listen_near(host: str, port: int) -> socket.socket:
    """As `listen`, but takes any free port when the preferred one cannot be had."""
    try:
        return listen(host, port if port <= _LAST_PORT else 0)
    except StartError:
        return listen(host, 0)


def is_free(port: int) -> bool:
    """Whether a process could listen on this loopback port now."""
    try:
        _listen(socket.AF_INET, ("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def url(sock: socket.socket) -> str:
    """Where a socket listens, as a URL: `http://0.0.0.0:8080`."""
    return http_url(*sock.getsockname()[:2])


def http_url(host: str, port: int) -> str:
    """The URL of a host and port; IPv6 addresses get their brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(family: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier run linger for a minute
        if family == socket.AF_INET6 and address[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _why_not(host: str, port: int, error: Exception) -> str:
    where = f"port {port} on {host or 'all addresses'}"
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return f"{where} is in use by another program: stop it, or choose another with --port"
        case errno.EACCES | errno.EPERM:
            return f"{where} needs privileges this user has not: choose one above 1023 with --port"
        case errno.EADDRNOTAVAIL:
            return f"{where}: no interface of this machine has that address"
        case _:
            return f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}"
