"""Text for people: columns, ages, and words that others wrote."""

from datetime import UTC, datetime

import pytest

from cluster.client.tables import age, labels, pairs, shown, shown_output, table, width

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks() -> None:
    text = table(("NAME", "NODE"), [("web-1", "n1"), ("w", ""), ("主机", "n2")])
    assert text == "NAME   NODE\nweb-1  n1\nw\n主机   n2\n"


def test_a_cell_can_neither_begin_a_line_nor_move_the_cursor() -> None:
    assert table(("A",), [("x\ny\x1b[2J\u202e",)]) == "A\nx\\ny\\x1b[2J\\u202e\n"


def test_pairs_leave_out_what_has_no_value() -> None:
    assert pairs({"a": 0, "bb": "", "ccc": None, "d": "x"}) == "a  0\nd  x\n"


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("2026-01-02T11:59:57.500Z", "2s"),
        ("2026-01-02T11:55:00Z", "5m"),
        ("2026-01-02T09:00:00Z", "3h"),
        ("2025-12-31T12:00:00Z", "2d"),
        ("2026-01-02T12:00:09Z", "0s"),
        ("never\n", "never\\n"),
    ],
)
def test_ages(at: str, words: str) -> None:
    assert age(at, NOW) == words


def test_labels_are_written_as_they_are_given() -> None:
    assert labels({"b": "2", "a": "1"}) == "a=1,b=2"


@pytest.mark.parametrize(
    ("text", "on_a_terminal"),
    [
        ("plain", "plain"),
        ("a\tb", "a\tb"),
        ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
        ("\x1b[2Jgone\r\x07", "\\x1b[2Jgone\\r\\x07"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
    ],
)
def test_a_tasks_output_keeps_its_colours_and_nothing_else(text: str, on_a_terminal: str) -> None:
    assert shown_output(text) == on_a_terminal


def test_what_is_no_text_is_shown_too() -> None:
    assert [shown(value) for value in (None, 3, "\ud800")] == ["", "3", "\\ud800"]


def test_wide_and_combining_characters_count_as_they_are_drawn() -> None:
    assert (width("主机"), width("e\u0301"), width("ab")) == (4, 1, 2)
