"""How a command ends, as an exit code. `tasks run` on one agent ends with the task's own exit code instead.

| code | means |
| --- | --- |
| 0 | done |
| 1 | failed |
| 2 | usage, or settings that cannot be used |
| 3 | not found: no such agent or task |
| 4 | refused: the call is not signed as it must be |
| 5 | timeout |
| 6 | partly: done by some agents and not by others |
| 130 | Ctrl-C |
"""

from cluster.errors import CommandFailed

OK, FAILED, USAGE, NOT_FOUND, REFUSED, TIMEOUT, PARTLY = range(7)
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Failed(CommandFailed):
    """It cannot be done. The text is one line for the operator."""

    def __init__(self, text: str, exit_code: int = FAILED) -> None:
        super().__init__(text, exit_code)


class NotFound(Failed):
    """There is no such agent or task."""

    def __init__(self, text: str) -> None:
        super().__init__(text, NOT_FOUND)


class ComeBack(Failed):
    """No answer, or one that says "later": the same call may work in a moment, and may have been done already."""
