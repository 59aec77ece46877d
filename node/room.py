"""The room that unfinished large frames of all the links of a process share: a bound on what half-sent results can hold.

Owns the sum and the queue of links that wait for room; a link itself says what it holds. Knows no socket and no clock:
that one which waits for too long is closed, and so gives its bytes back, is the link's own rule.
While nobody else reads on, one link may, whatever the sum: somebody always finishes. So what is held beyond the limit is
one message at the most, and a read of each that waits.
"""

from typing import Protocol

LARGE_BYTES = 64 * 1024  # a link that holds less does not count


class Holder(Protocol):
    """A link, as the room sees it."""

    def missing_bytes(self) -> int:
        """How much of its unfinished frame is still to come."""

    def on_room(self) -> None:
        """It may read on."""


class Room:
    """Adds up what links hold, and says which of them may read on."""

    __slots__ = ("_holders", "_waiting", "held_bytes")

    def __init__(self) -> None:
        self.held_bytes = 0
        self._holders = 0
        self._waiting: dict[Holder, None] = {}

    def change(self, holder: Holder, before_bytes: int, after_bytes: int, limit_bytes: int) -> bool:
        """Notes what a link holds now; False: it has to stop reading until `on_room`."""
        self.held_bytes += after_bytes - before_bytes
        self._holders += bool(after_bytes) - bool(before_bytes)
        if after_bytes < before_bytes:
            self._waiting.pop(holder, None)
            self._admit(limit_bytes)
        elif self.held_bytes > limit_bytes and len(self._waiting) + 1 < self._holders:
            self._waiting[holder] = None
            return False
        return True

    def _admit(self, limit_bytes: int) -> None:
        """In the order in which they began to wait, while there is room for what the ones before still miss."""
        promised_bytes = self.held_bytes
        while self._waiting and (promised_bytes <= limit_bytes or len(self._waiting) == self._holders):
            holder = next(iter(self._waiting))
            del self._waiting[holder]
            promised_bytes += holder.missing_bytes()
            holder.on_room()
