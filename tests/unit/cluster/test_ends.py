"""Ends are told apart by who decided them, and why."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster import ends, scripts
from cluster.ends import Ends
from node import uplink


@dataclass
class Entry:
    status: str
    error_msg: str = ""
    message_id: str = "m1"


def noted(*entries: Entry, again: int = 0) -> dict[tuple[str, ...], int]:
    found = Ends()
    found.note_results(entries, again)
    return {key: count for key, count in found.by_reason.items() if count}


def test_an_agents_word_is_its_own_whatever_it_says() -> None:
    said = [Entry("success"), Entry("failed", "no result"), Entry("cancelled"), Entry("failed")]
    assert noted(*said) == {("success", "agent"): 1, ("failed", "agent"): 2, ("cancelled", "agent"): 1}


def test_progress_is_no_end() -> None:
    assert noted(Entry("running"), Entry("anything")) == {}


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        ("failed", "expired before delivery", "expired"),
        ("failed", "no result, agent lost", "agent_lost"),
        ("failed", "agent restarted, the task may have run", "agent_restarted"),
        ("cancelled", "cancelled, and the agent restarted", "agent_restarted"),
        ("cancelled", "cancelled before delivery", "cancelled"),
        ("cancelled", "no result", "other"),
        ("failed", "of an older version", "other"),
    ],
)
def test_an_end_of_the_clusters_own_says_why(status: str, text: str, reason: str) -> None:
    assert noted(Entry(status, text, "end:a:t")) == {(status, reason): 1}


def test_every_text_of_an_end_of_our_own_has_its_reason() -> None:
    folder = Path(scripts.__file__).parent
    said: set[str] = set()
    for script in folder.glob("*.lua"):
        for line in script.read_text().splitlines():
            if ("own_end(" in line and "function" not in line) or "local text =" in line:
                said |= {text for text in re.findall(r"'([^']*)'", line) if " " in text or text in ends.OWN}
    assert len(said) >= 7
    assert said | {uplink.LOST} == set(ends.OWN)


def test_what_came_again_is_counted_by_its_lane() -> None:
    found = Ends()
    found.note_results([], 2)
    found.note_logs(3)
    assert found.again == {"result": 2, "log": 3}
