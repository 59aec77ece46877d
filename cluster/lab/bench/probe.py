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


class Probe:
    """Pings a node. Blocks its process while it does: it has one of its own."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    async def connect(self, host: str, port: int) -> Tally:
        """Registers and connects. Raises: OSError."""
        asker = Asker(host, port, "127.0.0.1")
        body = msgspec.json.encode({"name": "bench-probe", "token": _TOKEN})
        _, answer = await asker.ask(request("POST", "/api/agents/register", body))
        asker.close()
        self._socket = socket.create_connection((host, port), _ANSWER_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(upgrade(f"{host}:{port}", msgspec.json.decode(answer)["id"], _TOKEN))
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._socket.recv(4096)
        return Tally(done=int(head[9:12] == b"101"))

    async def watch(self, pid: int, seconds: float) -> Tally:
        """The round trips, less what was spent waiting for a CPU, in us."""
        return await asyncio.to_thread(self._watch, pid, seconds)

    def _watch(self, pid: int, seconds: float) -> Tally:
        tally, ends_at = Tally(), time.monotonic() + seconds
        gc.disable()
        while time.monotonic() < ends_at:
            waited_s = meter.waited_s(pid) + meter.waited_s_of_thread()
            began_ns = time.monotonic_ns()
            self._ping()
            took_us = (time.monotonic_ns() - began_ns) // 1000
            waited_us = int((meter.waited_s(pid) + meter.waited_s_of_thread() - waited_s) * 1e6)
            tally.latencies_us.append(max(0, took_us - waited_us))
            time.sleep(_EVERY_S)
        gc.enable()
        tally.done = len(tally.latencies_us)
        return tally

    def _ping(self) -> None:
        if self._socket is None:
            raise ConnectionError("the probe is not connected")
        self._socket.sendall(_PING)
        data = b""
        while _PONG not in data:
            more = self._socket.recv(4096)
            if not more:
                raise ConnectionError("the node closed the probe's connection")
            data += more
