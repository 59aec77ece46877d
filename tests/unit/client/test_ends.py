"""How ends are told: exit codes, words, and a summary of many."""

import pytest

from cluster.client.ends import End, end_of, exit_code, summary

GOOD, THREE, LATE = End("success", 0), End("failed", 3, "exit status 3"), End("failed", -1, "timed out", "1004")
LOST = End("failed", -1, "agent restarted, the task may have run", "2001")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([GOOD], 0),
        ([THREE], 3),
        ([LATE], 5),
        ([LOST], 1),
        ([End("failed", 300)], 1),
        ([End("cancelled", 0)], 1),
        ([GOOD, GOOD], 0),
        ([GOOD, THREE], 6),
        ([THREE, THREE], 1),
        ([LATE, LATE], 5),
        ([LATE, THREE], 1),
    ],
)
def test_exit_codes(ends: list[End], code: int) -> None:
    assert exit_code(ends) == code


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (THREE, "failed, exit code 3"),
        (LATE, "timed out"),
        (End("failed", -1, "timed out after 1 s", "1004"), "timed out after 1 s"),
        (End("failed", -1, "no result", "1004"), "timed out: no result"),
        (End("cancelled", -1, "cancelled before delivery"), "cancelled before delivery"),
        (LOST, "failed: agent restarted, the task may have run"),
        (End("cancelled", -1, "cancelled"), "cancelled"),
        (End("failed", 1, "a\nb"), "failed, exit code 1: a\\nb"),
    ],
)
def test_an_end_in_words(end: End, words: str) -> None:
    assert end.words == words


def test_a_summary_counts_how_they_ended() -> None:
    assert summary([GOOD, THREE, GOOD, LATE]) == "4 agents: 2 succeeded, 1 failed, 1 timed out"
    assert summary([THREE, GOOD]) == summary([GOOD, THREE]) == "2 agents: 1 succeeded, 1 failed"


def test_an_entry_of_another_program_is_read_too() -> None:
    assert end_of({"status": "failed", "exit_code": "x"}) == End("failed", 0)


def test_the_api_tells_an_end_in_the_words_of_the_feed() -> None:
    said = {"status": "failed", "exit_code": -1, "error_msg": "no result", "error_code": 1004}
    assert end_of(said) == End("failed", -1, "no result", "1004")
    assert end_of({"status": "success", "exit_code": 0, "error_msg": "", "error_code": 0}) == GOOD
