"""The door of `agent-server`: runs a command line, and turns what goes wrong into one line and an exit code.

Must not know the commands (`commands`). Rules:
- An error is one line on standard error, never a traceback, and each setting that is wrong is one: exit 2 for usage and settings, 1 for what cannot start, 130 for Ctrl-C,
  and what a command says of itself (`cluster/client/outcome.py`).
- `version` answers without loading what the other commands need.
"""

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from cluster.errors import AgentServerError, CommandFailed, ConfigError

NAME = "agent-server"
_EXIT_FAILURE = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; its exit code."""
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a bug of ours is told in one line too
        return _told(error)


def version_text() -> str:
    """Name and version, as `version` prints them."""
    try:
        return f"{NAME} {metadata.version(NAME)}"
    except metadata.PackageNotFoundError:
        return f"{NAME} (not installed)"


def _dispatch(arguments: Sequence[str]) -> int:
    if list(arguments) in (["version"], ["--version"]):
        print(version_text())
        return 0
    from cluster import commands  # noqa: PLC0415 - typer and the settings take longer to import than `version` to answer

    return commands.run(arguments or ["--help"])


def _told(error: Exception) -> int:
    match error:
        case ConfigError():
            for problem in error.problems[:-1]:
                _fail(problem, _EXIT_USAGE)
            return _fail(error.problems[-1], _EXIT_USAGE)
        case CommandFailed():
            return _fail(str(error), error.exit_code)
        case AgentServerError():
            return _fail(str(error), _EXIT_FAILURE)
    return _fail(f"internal error, {type(error).__name__}: {error}", _EXIT_FAILURE)


def _fail(text: str, code: int) -> int:
    print(f"{NAME}: {' '.join(text.split())}", file=sys.stderr)
    return code
