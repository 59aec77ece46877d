"""Where a measurement was made: CPUs, versions, and how busy the machine was with other things."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path

from cluster import cli
from cluster.redis_binary import find_binary

_LOOK_S = 1.0


def facts() -> dict[str, str]:
    """Names and values, for people. To be asked before anything is measured; takes a second."""
    return {
        "version": cli.version_text(),
        "cpu": f"{len(os.sched_getaffinity(0))} x {_cpu_name()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis": find_binary().text,
        "uvloop": _version("uvloop"),
        "redis-py": _version("redis"),
        "picows": _version("picows"),
        "busy with other work": f"{_busy():.0%} of all CPUs before it began; load average {os.getloadavg()[0]:.1f}",
    }


def _busy() -> float:
    """The share of all CPUs that is in use."""
    began = _ticks()
    time.sleep(_LOOK_S)
    busy, whole = (after - before for after, before in zip(_ticks(), began, strict=True))
    return busy / whole if whole else 0.0


def _ticks() -> tuple[int, int]:
    """Busy, and all."""
    numbers = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
