"""What an agent says of its host: who it is, once, at registration; how it fares, with every heartbeat.

Reads /proc; knows no frames. Sizes in bytes, usages in percent, `uptime` in seconds. What a host cannot tell is left out.
"""

import contextlib
import os
import platform
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_ARCHS = {"x86_64": "amd64", "aarch64": "arm64"}  # as Go calls them


def identity(url: str) -> dict[str, Any]:
    """Who the host is, seen from the way to the server. May look up a name: not for the event loop."""
    machine = platform.machine()
    return {
        "hostname": platform.node(),
        "os": platform.system().lower(),
        "arch": _ARCHS.get(machine, machine),
        "ips": _own_address(url),
    }


class Vitals:
    """How the host fares. The CPU's usage is that since the last reading."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._cpu = (0, 0)  # ticks: idle, all

    def read(self) -> dict[str, Any]:
        """The state of now."""
        system: dict[str, Any] = {"hostname": platform.node()}
        for part in (self._read_cpu, self._read_memory, self._read_uptime, _load, _disk):
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
                system |= part()
        return system

    def _read_cpu(self) -> dict[str, float]:
        ticks = [int(word) for word in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        (idle_before, all_before), self._cpu = self._cpu, (ticks[3] + ticks[4], sum(ticks))
        elapsed = self._cpu[1] - all_before
        busy = elapsed - (self._cpu[0] - idle_before)
        return {"cpu_usage": round(100 * busy / elapsed, 1) if elapsed > 0 else 0.0}

    def _read_memory(self) -> dict[str, float]:
        lines = (line.split() for line in (self._proc / "meminfo").read_text().splitlines())
        kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
        total, used = kib["MemTotal"] << 10, (kib["MemTotal"] - kib["MemAvailable"]) << 10
        return {"memory_total": total, "memory_used": used, "memory_usage": round(100 * used / total, 1)}

    def _read_uptime(self) -> dict[str, float]:
        return {"uptime": int(float((self._proc / "uptime").read_text().split()[0]))}


def _load() -> dict[str, list[float]]:
    return {"load_avg": [round(load, 2) for load in os.getloadavg()]}


def _disk() -> dict[str, dict[str, float]]:
    usage = shutil.disk_usage("/")
    return {"disk_usage": {"/": round(100 * usage.used / (usage.used + usage.free), 1)}}


def _own_address(url: str) -> list[str]:
    """The address that packets to the server leave from. Nothing is sent to find it out."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError):
        family, kind, _, _, address = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return [probe.getsockname()[0]]
    return []
