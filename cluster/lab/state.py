"""The folder that outlives the agent's process: its token, a database, and a lock.

| file | holds |
| --- | --- |
| `token` | the token that the server made for us, when none was given |
| `state.db` | SQLite: messages not yet acked (`outbox`), tasks that have ended (`finished`) |
| `lock` | locked while an agent runs here |

Only the user of the agent may read it.
"""

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Self

from cluster.errors import StartError


class State:
    """The folder, held by this process. Use as a context manager. Raises: StartError when another agent holds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._token_file = folder / "token"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            try:
                self._open(stack)
            except (OSError, sqlite3.Error) as error:
                raise StartError(f"state folder {self.folder}: {error}") from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, stack: contextlib.ExitStack) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = stack.enter_context((self.folder / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"another agent runs with the state folder {self.folder}") from None
        self.database = stack.enter_context(contextlib.closing(_database(self.folder / "state.db")))

    def read_token(self) -> str:
        """The token that was kept; "" when there is none."""
        try:
            return self._token_file.read_text().strip()
        except FileNotFoundError:
            return ""

    def keep_token(self, token: str) -> None:
        """Keeps the token for the next process. Raises: OSError."""
        part = self._token_file.with_name("token.part")
        with open(part, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._token_file)


def _database(path: Path) -> sqlite3.Connection:
    """Every statement is a transaction. It survives the death of the process; that of the host may cost the last moments."""
    path.touch(mode=0o600)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    return database
