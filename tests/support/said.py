"""What tests say of themselves at the end of a run: figures, and how much was looked at where nothing was found."""

from collections.abc import Callable

import pytest

Say = Callable[[str], None]
_LINES = pytest.StashKey[list[str]]()


def sayer(config: pytest.Config, name: str) -> Say:
    """Takes down lines under this name."""
    lines = config.stash.setdefault(_LINES, [])
    return lambda line: lines.append(f"{name}: {line}")


def tell(terminal: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them all."""
    if lines := config.stash.get(_LINES, []):
        terminal.section("said")
        terminal.write_line("\n".join(lines))
