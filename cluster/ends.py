"""How tasks ended, counted where their entries enter the results feed; and what came again.

Owns the names of the reasons; knows no Redis. Rules: an end is counted by the process that wrote it, whoever decided it; what a process wrote
whose answer it did not get is counted by who writes it again. An end of the cluster's own says why in its text: see the scripts.
"""

from collections.abc import Iterable
from typing import Protocol

AGENT = "agent"  # said so
OTHER = "other"
OWN = {  # by the texts of the cluster's own ends
    "expired before delivery": "expired",
    "no result": "no_result",
    "no result, agent lost": "agent_lost",
    "agent restarted, the task may have run": "agent_restarted",
    "cancelled, and the agent restarted": "agent_restarted",
    "cancelled before it was delivered again": "cancelled",
    "cancelled before delivery": "cancelled",
    "agent was forgotten": "agent_forgotten",
    "lost: Redis came back without this task, it may have run": "lost",
}
REASONS = {
    "success": (AGENT, OTHER),
    "failed": (AGENT, *dict.fromkeys(reason for reason in OWN.values() if reason != "cancelled"), OTHER),
    "cancelled": (AGENT, "cancelled", "agent_restarted", OTHER),
}


class End(Protocol):
    """What is looked at of an entry of the results feed."""

    @property
    def status(self) -> str:
        """How the task goes, or went."""

    @property
    def error_msg(self) -> str:
        """Why."""

    @property
    def message_id(self) -> str:
        """Of the message that brought it; `end:...` where nobody did."""


class Ends:
    """What one process wrote into the feeds of results and logs."""

    def __init__(self) -> None:
        self._by_agents = dict.fromkeys(REASONS, 0)  # nearly all of them: one look-up each
        self._own: dict[tuple[str, ...], int] = {
            (outcome, reason): 0 for outcome, reasons in REASONS.items() for reason in reasons if reason != AGENT
        }
        self.again = {"log": 0, "result": 0}  # messages that were in their feed already

    @property
    def by_reason(self) -> dict[tuple[str, ...], int]:
        """How many, by outcome and reason; always the same ones."""
        return {(outcome, AGENT): count for outcome, count in self._by_agents.items()} | self._own

    def note_results(self, entries: Iterable[End], again: int) -> None:
        """These were written; so many of them had been before."""
        self.again["result"] += again
        by_agents = self._by_agents
        for entry in entries:
            status = entry.status
            if status in by_agents:
                if entry.message_id[:4] == "end:":
                    self._note_own(status, entry.error_msg)
                else:
                    by_agents[status] += 1

    def _note_own(self, outcome: str, text: str) -> None:
        reason = OWN.get(text, OTHER)
        self._own[outcome, reason if reason in REASONS[outcome] else OTHER] += 1

    def note_logs(self, again: int) -> None:
        """Of messages that were written, so many had been before."""
        self.again["log"] += again
