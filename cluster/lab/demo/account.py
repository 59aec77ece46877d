"""What was posted and what the feeds must hold of it: every end once, every line once and in order.

Pure: entries in, a count and complaints out. Knows neither Redis nor the story.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.client.ends import ENDS

Fields = Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """A script for one agent, the lines that it prints, and how it ends."""

    id: str
    agent: str
    title: str
    script: str
    lines: tuple[str, ...]
    status: str = "success"


@dataclass(frozen=True)
class Account:
    """The count of a whole run. `wrong`: what is not as it must be, in words; empty when all is."""

    accepted: int
    ended: int
    lines: int
    wrong: tuple[str, ...]


def account(tasks: Iterable[Task], results: Sequence[Fields], logs: Sequence[Fields]) -> Account:
    """Holds the two feeds, read from their beginning, against the tasks that were accepted."""
    known = {task.id: task for task in tasks}
    ends = [entry for entry in results if entry.get("status") in ENDS]
    strangers = {entry.get("task_id", "") for entry in (*results, *logs)} - known.keys()
    wrong = [f"entries of a task that nobody posted: {task_id}" for task_id in sorted(strangers)]
    for task in known.values():
        wrong += _wrong_ends(task, [entry["status"] for entry in ends if entry.get("task_id") == task.id])
        wrong += _wrong_lines(task, [entry.get("content", "") for entry in logs if entry.get("task_id") == task.id])
    return Account(len(known), len(ends), len(logs), tuple(wrong))


def _wrong_ends(task: Task, found: Sequence[str]) -> list[str]:
    if found == [task.status]:
        return []
    return [f"'{task.title}' on {task.agent} has {len(found)} ends ({', '.join(found)}) and not one, {task.status}"]


def _wrong_lines(task: Task, found: Sequence[str]) -> list[str]:
    if tuple(found) == task.lines:
        return []
    missing = (Counter(task.lines) - Counter(found)).elements()
    again = (Counter(found) - Counter(task.lines)).elements()
    what = [f"{how}: {', '.join(lines)}" for how, lines in (("missing", [*missing]), ("too often", [*again])) if lines]
    return [f"lines of '{task.title}' on {task.agent}: {'; '.join(what) or 'out of order'}"]


def counting(task_id: str, agent: str, title: str, steps: int, pause_s: float) -> Task:
    """A task that says where it is, with a pause behind each line."""
    script = f'for i in $(seq {steps}); do echo "{title}: $i of {steps}"; sleep {pause_s}; done'
    return Task(task_id, agent, title, script, tuple(f"{title}: {number} of {steps}" for number in range(1, steps + 1)))
