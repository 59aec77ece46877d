"""What an error of the Redis driver says of Redis: that it is away, full or moving - or that the mistake is ours.

Knows no connection. Rules: whatever Redis may get over by itself is one error of ours, `StoreUnavailable`; a script or a call that is wrong
stays the driver's error, and is seen.
"""

from typing import NamedTuple

from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import TimeoutError as NoReply

DRIVER_ERRORS = (RedisError, OSError, RuntimeError)


class Away(NamedTuple):
    """In words, and in one of REASONS; and whether connections are better given up: the next ones find the Redis that is there then."""

    text: str
    reason: str
    is_moving: bool


REASONS = ("no_answer", "connection", "full", "failing_over")
_SILENT = Away("Redis does not answer", "no_answer", is_moving=False)
_BROKEN = Away("Redis does not answer", "connection", is_moving=True)
_REFUSED = Away("Redis refuses the password", "connection", is_moving=True)
_FULL = Away("Redis is full", "full", is_moving=False)
_MOVING = Away("Redis refuses writes, or is failing over", "failing_over", is_moving=True)
_WORDS = (
    "LOADING",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "READONLY",
    "UNBLOCKED",
    "UNKILLABLE",
)


def away(error: Exception) -> Away | None:
    """None when the mistake is ours."""
    if isinstance(error, BrokenConnection):  # its neighbours are broken too; Redis loading is one of these
        return _REFUSED if isinstance(error, AuthenticationError) else _BROKEN
    if isinstance(error, NoReply | OSError):
        return _SILENT
    if isinstance(error, RuntimeError):  # uvloop's word for writing to a connection that has just been closed
        return _BROKEN if "closed" in str(error) else None
    # Inside a script, Redis 6.2 puts its own words before the reason; elsewhere the driver takes the reason off.
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "OOM" in text:
        return _FULL
    if isinstance(error, ReadOnlyError | MasterDownError | ClusterDownError) or any(word in text for word in _WORDS):
        return _MOVING
    return None
