"""What fits onto a terminal."""

import pytest

from cluster.client.tables import width
from cluster.client.terminal import fitted

PAGE = ["short", "x" * 100, "数" * 100, "last"]


@pytest.mark.parametrize("columns", [1, 2, 3, 10, 79, 80, 200, 500])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 10])
def test_a_page_never_wraps_and_never_scrolls(rows: int, columns: int) -> None:
    shown = fitted(PAGE, rows, columns)
    assert len(shown) == min(rows, len(PAGE))
    assert all(width(line) < columns for line in shown)


def test_what_fits_is_shown_whole_and_what_does_not_is_counted() -> None:
    assert fitted(PAGE, 4, 500) == PAGE
    assert fitted(PAGE, 3, 500) == [*PAGE[:2], "... 2 more lines"]
