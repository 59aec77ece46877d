"""Processes that tests start: each dies with the process that started it, and is only ever ended by its own id.

The kernel sends SIGKILL when the *thread* that started the child ends, so start them from the main thread. `children_of` reads /proc and
needs no more than Linux.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

_PR_SET_PDEATHSIG = 1


class Child(msgspec.Struct, frozen=True):
    """A process below one of ours, and what it was started with."""

    pid: int
    argv: tuple[str, ...]


def spawn(
    argv: Sequence[str], *, cwd: Path, stdout: Path, stderr: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process of our own; what it prints is appended to the two files."""
    with stdout.open("ab") as out, stderr.open("ab") as err:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509  no lock is taken there, nothing is imported
        )


def _dies_with(parent: int) -> Callable[[], None]:
    """Runs in the child, between fork and exec: everything it needs is loaded before."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return tie


def children_of(pid: int) -> list[Child]:
    """Its living children. Those of a process that is gone: none."""
    return [Child(child, argv_of(child)) for child in sorted(_pids()) if _parent_of(child) == pid]


def signal_child(pid: int, parent: int, number: signal.Signals) -> None:
    """Signal a child of this parent, and nobody who was given its id later. Raises: ProcessLookupError."""
    handle = os.pidfd_open(pid)
    try:
        if _parent_of(pid) != parent:
            raise ProcessLookupError(f"process {pid} is no child of {parent}")
        signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def argv_of(pid: int) -> tuple[str, ...]:
    """What a process was started with; nothing for one that is gone."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.split("\0")[:-1])


def is_running(pid: int) -> bool:
    """Whether this process exists and is more than a zombie."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent_of(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields and fields[0] not in {"Z", "X"} else 0


def _stat(pid: int) -> list[str]:
    """State, parent and what follows them; the command before them may hold blanks and brackets of its own."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
