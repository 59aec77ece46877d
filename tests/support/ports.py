"""Ports that nobody uses at the moment of asking.

They are taken below the kernel's range for outgoing connections: a port from that range may be handed to some client's connection
between the asking and the binding, or while a killed server is about to come back to it.
"""

import random
import socket
from pathlib import Path

_LOWEST = 10_000
_CHANCE = (
    random.SystemRandom()
)  # Hypothesis seeds the common one: test processes side by side would draw the same ports


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port to listen on. Raises: OSError when none is found."""
    first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(200):
        port = _CHANCE.randrange(_LOWEST, max(first_of_clients, _LOWEST + 1_000))
        if _is_free(host, port):
            return port
    raise OSError("no free port in 200 attempts")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
