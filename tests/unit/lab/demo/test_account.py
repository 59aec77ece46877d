"""The count at the end: what the feeds must hold of what was posted, and what is said when they do not."""

import subprocess

import pytest

from cluster.lab.demo.account import Task, account, counting

TASK = Task("t1", "web-1", "build", "...", ("one", "two", "two"))
END = {"task_id": "t1", "status": "success"}
LINES = [{"task_id": "t1", "content": content} for content in TASK.lines]


def test_all_ends_and_lines_once_is_a_count_without_complaint() -> None:
    broken = Task("t2", "db-1", "check", "...", (), "failed")
    counted = account([TASK, broken], [END, {"task_id": "t2", "status": "failed"}], LINES)
    assert (counted.accepted, counted.ended, counted.lines, counted.wrong) == (2, 2, 3, ())


def test_progress_is_no_end() -> None:
    assert account([TASK], [{"task_id": "t1", "status": "running"}, END], LINES).wrong == ()


@pytest.mark.parametrize(
    ("results", "logs", "complaint"),
    [
        ([], LINES, "'build' on web-1 has 0 ends () and not one, success"),
        ([END, END], LINES, "'build' on web-1 has 2 ends (success, success) and not one, success"),
        ([{**END, "status": "failed"}], LINES, "'build' on web-1 has 1 ends (failed) and not one, success"),
        ([END], LINES[1:], "lines of 'build' on web-1: missing: one"),
        ([END], LINES[:-1], "lines of 'build' on web-1: missing: two"),
        ([END], [*LINES, LINES[0]], "lines of 'build' on web-1: too often: one"),
        ([END], LINES[::-1], "lines of 'build' on web-1: out of order"),
        ([END, {**END, "task_id": "t9"}], LINES, "entries of a task that nobody posted: t9"),
    ],
)
def test_what_is_not_exactly_once_is_named(
    results: list[dict[str, str]], logs: list[dict[str, str]], complaint: str
) -> None:
    assert account([TASK], results, logs).wrong == (complaint,)


def test_a_counting_task_prints_the_lines_that_it_says() -> None:
    task = counting("t1", "web-1", "catch up", 3, 0.01)
    printed = subprocess.run(["sh", "-c", task.script], capture_output=True, text=True, check=True).stdout
    assert tuple(printed.splitlines()) == task.lines
