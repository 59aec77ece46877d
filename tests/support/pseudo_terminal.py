"""A program on a terminal of its own: what it wrote, what it is typed, how large its window is, and how it left the terminal."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self


class PseudoTerminal:
    """Use as a context manager; the program is killed at the end."""

    def __init__(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], rows: int = 24, columns: int = 80
    ) -> None:
        self._ours, self._theirs = pty.openpty()  # ours stays open: what the program left is read behind its end
        self._written = bytearray()
        self.resize(rows, columns)
        self.before = self.attributes()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],  # its own terminal: Ctrl-C that is typed becomes a signal
            cwd=cwd, env=dict(env), stdin=self._theirs, stdout=self._theirs, stderr=self._theirs,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def written(self) -> str:
        """All that the program wrote so far."""
        return bytes(self._written).decode(errors="replace")

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self._ours, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Another size of the window; the program is to be told by SIGWINCH."""
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def attributes(self) -> list[Any]:
        """How the terminal is set: echo, lines, signals."""
        return termios.tcgetattr(self._theirs)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self._ours, 65_536):
                self._written += chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._theirs)  # the reader meets the end
        self._reader.join(5)
        os.close(self._ours)
