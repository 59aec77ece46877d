"""What processes have cost, as the operating system counts it: CPU time in ns, memory in bytes.

Knows no scenario. Rules: CPU time is that of all threads; that of children is not included (Redis forks to rewrite its file).
"""

from collections.abc import Mapping
from pathlib import Path

_PROC = Path("/proc")
_KIB = 1024


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has had, all threads. Raises: OSError when it is gone."""
    return sum(_first_number(task / "schedstat") for task in (_PROC / str(pid) / "task").iterdir()) / 1e9


def waited_s(pid: int) -> float:
    """Seconds that the first thread of a process was ready to run and had no CPU. Raises: OSError when it is gone."""
    return _waited_s(_PROC / str(pid) / "schedstat")


def waited_s_of_thread() -> float:
    """The same, of the thread that asks."""
    return _waited_s(_PROC / "thread-self" / "schedstat")


def memory_bytes(pid: int) -> int:
    """Memory of a process's own, without files and what it shares. Raises: OSError when it is gone."""
    lines = (_PROC / str(pid) / "status").read_text().splitlines()
    return next(int(line.split()[1]) * _KIB for line in lines if line.startswith("RssAnon:"))


def _waited_s(path: Path) -> float:
    return int(path.read_text().split()[1]) / 1e9


def _first_number(path: Path) -> int:
    try:
        return int(path.read_text().split()[0])
    except (OSError, IndexError):  # a thread that has just ended
        return 0


class Meter:
    """The CPU time of some processes since it was made, or since `restart`."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._began_s: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Counts from now on."""
        self._began_s = {name: cpu_s(pid) for name, pid in self._pids.items()}

    def spent_s(self) -> dict[str, float]:
        """CPU seconds of each process since it began to count."""
        return {name: cpu_s(pid) - self._began_s[name] for name, pid in self._pids.items()}
