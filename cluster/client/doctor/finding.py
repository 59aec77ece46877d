"""What a check found: a verdict, what is the case, and what to do about it. Knows no check."""

import enum

from msgspec import Struct


class Verdict(enum.Enum):
    """How it looks."""

    OK = "ok"
    WARNING = "warning"  # works, and may not under load or after a fault
    BROKEN = "broken"
    UNCHECKED = "not checked"  # it could not be looked at, which is no failure


class Finding(Struct, frozen=True):
    """Of one check. `fix` is what to do; `details` are lines that belong to it."""

    verdict: Verdict
    says: str
    fix: str = ""
    details: tuple[str, ...] = ()


class Checked(Struct, frozen=True):
    """A finding, by the name of its check."""

    check: str
    finding: Finding


def ok(says: str, *details: str) -> Finding:
    """All is well."""
    return Finding(Verdict.OK, says, details=details)


def warning(says: str, fix: str, *details: str) -> Finding:
    """It works, and may not go on to."""
    return Finding(Verdict.WARNING, says, fix, details)


def broken(says: str, fix: str, *details: str) -> Finding:
    """Something does not work, or will lose what it accepted."""
    return Finding(Verdict.BROKEN, says, fix, details)


def unchecked(why: str) -> Finding:
    """It could not be looked at."""
    return Finding(Verdict.UNCHECKED, why)
