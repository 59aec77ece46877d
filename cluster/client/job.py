"""One agent's part of a run: its task, how far its lines came, how it ended. Asks nobody and prints nothing.

Rule: log lines and results come by two feeds, so that a result may be read before the last lines. An end is told when they are there, by
the size that the result names; at the latest when nothing came for a while.
"""

from dataclasses import dataclass

from cluster.client.agents import Agent
from cluster.client.ends import End

QUIET_S = 0.3
LINES_S = 3.0  # at the most, however much comes


@dataclass
class Job:
    """One agent's part of a run."""

    agent: Agent
    task_id: str
    is_posted: bool = False
    is_waiting: bool = False  # the agent was offline when it was posted
    end: End | None = None
    is_told: bool = False
    _end_s: float = 0.0
    _heard_s: float = 0.0
    _log_bytes: int = 0

    def hear_line(self, content: str, now_s: float) -> None:
        """A line of its output."""
        self._log_bytes += len(content.encode()) + 1
        self._heard_s = now_s

    def hear_end(self, end: End, now_s: float) -> None:
        """How it ended; the first end stays."""
        if self.end is None:
            self.end, self._end_s, self._heard_s = end, now_s, now_s

    def is_complete(self, now_s: float) -> bool:
        """Whether its end can be told: no line is to be expected any more."""
        if self.end is None:
            return False
        is_quiet = now_s - self._heard_s >= QUIET_S or now_s - self._end_s >= LINES_S
        return is_quiet or not self._misses_lines(self.end.log_size)

    def _misses_lines(self, log_size: int) -> bool:
        """An agent that writes lines and names no size does not count them."""
        return self._log_bytes < log_size if log_size else self._log_bytes > 0
