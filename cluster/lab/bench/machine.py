"""Where a measurement was made: CPUs, versions, and how busy the machine was with other things."""

import os
import platform
from importlib import metadata
from pathlib import Path

from cluster import cli
from cluster.redis_binary import find_binary


def facts() -> dict[str, str]:
    """Names and values, for people."""
    return {
        "version": cli.version_text(),
        "cpu": f"{len(os.sched_getaffinity(0))} x {_cpu_name()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis": find_binary().text,
        "uvloop": _version("uvloop"),
        "redis-py": _version("redis"),
        "picows": _version("picows"),
        "load average": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
