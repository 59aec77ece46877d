"""How tasks ended, on disk: a task that was finished is answered with its result, and never run again.

Knows what is asked about a task, and nothing of how it is run. The server forgets a task 25 h after its end, and so do we; of the last
10,000 tasks at most.
"""

import logging
import sqlite3
import time
from typing import NamedTuple

MAX_TASKS = 10_000
MAX_AGE_S = 25 * 3600.0

_TABLE = """CREATE TABLE IF NOT EXISTS finished
    (seq INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL UNIQUE, message_id TEXT NOT NULL, ended_at REAL NOT NULL, frame BLOB NOT NULL)"""
_FIND = "SELECT message_id, frame FROM finished WHERE task_id = ? AND ended_at > ?"
_ADD = "INSERT OR REPLACE INTO finished (task_id, message_id, ended_at, frame) VALUES (?, ?, ?, ?)"
_TRIM = "DELETE FROM finished WHERE seq <= (SELECT MAX(seq) FROM finished) - ?"

logger = logging.getLogger("agent")


class Finished(NamedTuple):
    """A result that was sent, or is still to be."""

    message_id: str
    frame: bytes


class FinishedTasks:
    """The ends of the last tasks."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute(_TABLE)
        database.execute("DELETE FROM finished WHERE ended_at < ?", (time.time() - MAX_AGE_S,))

    def find(self, task_id: str) -> Finished | None:
        """How this task ended; None for one that did not end here."""
        row = self._database.execute(_FIND, (task_id, time.time() - MAX_AGE_S)).fetchone()
        return Finished(*row) if row else None

    def remember(self, task_id: str, message_id: str, frame: bytes) -> None:
        """This task has ended, with this result."""
        try:
            self._database.execute(_ADD, (task_id, message_id, time.time(), frame))
            self._database.execute(_TRIM, (MAX_TASKS,))
        except sqlite3.Error as error:
            logger.warning("finished tasks on disk: %s; %s may be run again if it is sent again", error, task_id)
