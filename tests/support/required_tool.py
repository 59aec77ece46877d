"""What becomes of a test whose program is missing: on a laptop it skips, in CI it fails, so that nothing goes untested unseen."""

import os
import shutil
from typing import NoReturn

import pytest


def require_tool(*names: str) -> str:
    """The path of the first of these programs that this machine has. Raises: pytest's Skipped, or Failed where CI is set."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where daemons are, and users' shells do not look
    found = next((found for name in names if (found := shutil.which(name, path=path))), None)
    return found or missing(f"there is no {' or '.join(names)} on this machine")


def missing(what: str) -> NoReturn:
    """Skips, or fails."""
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
