"""The folder of the Unix sockets on which a machine's router hands connections to its nodes; for this user alone.

Owns where it lies, and that none is left for ever by a launcher that was killed. Must not know what listens in it. Rules:
- It is `run` in our data directory, if we hold one and its path is short enough for Unix sockets; else a folder for temporary files.
- A temporary one holds `owner`, which its process keeps locked: the kernel lets go of the lock when the process dies, whatever its pid
  is used for next. Only a folder of ours whose `owner` nobody locks is removed; one without `owner` is not known to be one.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LONGEST_FOLDER_BYTES = 90  # the path of a Unix socket has room for 107
_PREFIX = "agent-server-"
_OWNER = "owner"


@contextlib.contextmanager
def folder_of_sockets(data_dir: str | None) -> Iterator[Path]:
    """A folder for as long as the context lasts. `data_dir` is one that this process holds the lock of, None: there is none."""
    if data_dir and len(os.fsencode(data_dir)) <= _LONGEST_FOLDER_BYTES:
        folder = Path(data_dir, "run")
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier run that was killed
        folder.mkdir(mode=0o700)
        lock = -1
    else:
        _sweep(Path(tempfile.gettempdir()))
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _owned(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _owned(folder: Path) -> int:
    """The lock of a new folder. It gets its name when it is locked: a sweep never finds it open."""
    unnamed = folder / "new"
    lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(folder / _OWNER)
    return lock


def _sweep(place: Path) -> None:
    """Removes what launchers of this user left that died."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # no folder of ours, in use, or gone meanwhile
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                _remove_if_dead(folder)


def _remove_if_dead(folder: Path) -> None:
    """Raises: OSError when it has no owner, or one that lives."""
    lock = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
