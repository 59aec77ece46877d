"""How long an event loop stands still: one connection is pinged without a pause, and its pongs are timed.

Owns that connection. What a busy machine adds is taken off: the time for which the pinged process, or this one, waited for a CPU, which
the operating system counts. What is left is the loop's own: the longest of what it did between two looks at its sockets.
"""

import asyncio
import gc
import socket
import time

import msgspec

from cluster.lab.bench import meter
from cluster.lab.bench.agent_link import upgrade
from cluster.lab.bench.http_link import Asker, request
from cluster.lab.bench.tally import Tally

_PING = b"\x89\x80\0\0\0\0"
_PONG = b"\x8a\x00"
_EVERY_S = 0.002
_ANSWER_S = 10.0
_TOKEN = "bench-probe-0123456789abcdef0123456789abcdef0123456789abcdef"  # noqa: S105 - of an agent that nobody else is
_BODY = msgspec.json.encode({"name": "bench-probe", "token": _TOKEN})


class Probe:
    """Pings a node, over a connection of its own each time: between two looks nobody would answer the node's own pings."""

    async def watch(self, host: str, port: int, pid: int, seconds: float) -> Tally:
        """The round trips, less what was spent waiting for a CPU, in us. Raises: OSError."""
        asker = Asker(host, port, host)
        _, answer = await asker.ask(request("POST", "/api/agents/register", _BODY))
        asker.close()
        hello = upgrade(f"{host}:{port}", msgspec.json.decode(answer)["id"], _TOKEN)
        return await asyncio.to_thread(_watch, host, port, hello, pid, seconds)


def _watch(host: str, port: int, hello: bytes, pid: int, seconds: float) -> Tally:
    with socket.create_connection((host, port), _ANSWER_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _exchange(connection, hello, b"\r\n\r\n")
        tally, ends_at = Tally(), time.monotonic() + seconds
        gc.disable()
        while time.monotonic() < ends_at:
            waited_s = meter.waited_s(pid) + meter.waited_s_of_thread()
            began_ns = time.monotonic_ns()
            _exchange(connection, _PING, _PONG)
            took_us = (time.monotonic_ns() - began_ns) // 1000
            waited_us = int((meter.waited_s(pid) + meter.waited_s_of_thread() - waited_s) * 1e6)
            tally.latencies_us.append(max(0, took_us - waited_us))
            time.sleep(_EVERY_S)
        gc.enable()
    tally.done = len(tally.latencies_us)
    return tally


def _exchange(connection: socket.socket, said: bytes, awaited: bytes) -> None:
    connection.sendall(said)
    data = b""
    while awaited not in data:
        more = connection.recv(4096)
        if not more:
            raise ConnectionError("the node closed the probe's connection")
        data += more
