"""What is shown of many agents at once: the bar, and lines beside it."""

import io

from cluster.client.screen import Screen, bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_a_terminal_alone() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    for err in (pipe, terminal):
        screen = Screen(steps=2, out=io.StringIO(), err=err)
        screen.progress(1, 0)
        screen.finish()
    assert pipe.getvalue() == ""
    assert "1/2" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_the_bar_is_taken_away_for_a_line_and_comes_back_below() -> None:
    terminal = Terminal()
    screen = Screen(steps=2, out=terminal, err=terminal)
    screen.progress(1, 0)
    drawn = terminal.getvalue().removeprefix("\r\x1b[K")
    screen.line("x\x1b[2J", prefix="web-1 | ")
    assert terminal.getvalue().endswith(f"\r\x1b[Kweb-1 | x\\x1b[2J\n{drawn}")


def test_a_pipe_gets_lines_as_they_are() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out=out, err=err)
    screen.line("a\x1b[2J")
    screen.line("oops", is_err=True)
    assert (out.getvalue(), err.getvalue()) == ("a\x1b[2J\n", "oops\n")


def test_a_bar_fits_into_its_line() -> None:
    assert bar(5, 1, 10, 80) == "[###############---------------] 5/10, 1 failed"
    assert len(bar(5, 0, 10, 12)) <= 12
    assert bar(5, 0, 10, 6) == "5/10"
