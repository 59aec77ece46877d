"""Whether a connection is read from: who holds it back, and for how long that has been so.

Owns the transport's pause, and the patience of a peer whose writes we leave waiting. What to do when it runs out is the
link's. Held back by the session or for want of room, seconds add up, also over short reliefs: a stall is over once a read
has taken all that the peer wrote, or a second went by without a pause. Giving others a turn is no stall.
"""

import asyncio

from node.room import LARGE_BYTES

SESSION, ROOM, TURN = 1, 2, 4  # the session asked for it; large frames have no room; others have a turn
STALLS = SESSION | ROOM
ALL = STALLS | TURN


class Intake:
    """Of one connection. `holds` is empty while it is read from."""

    __slots__ = ("_is_stopped", "_stall_s", "_was_held", "holds", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.holds = 0
        self._stall_s = 0
        self._is_stopped = False
        self._was_held = False  # since the last second

    def hold(self, reason: int) -> None:
        """Another reason not to read."""
        self.holds |= reason
        if reason & STALLS:
            self._was_held = True

    def free(self, reason: int) -> None:
        """One reason less."""
        self.holds &= ~reason

    def stop(self) -> None:
        """Reads no more from the transport; twice is fine."""
        if not self._is_stopped:
            self._is_stopped = True
            self.transport.pause_reading()

    def start(self) -> None:
        """Reads from the transport again, if nothing holds it back."""
        if self._is_stopped and not self.holds:
            self._is_stopped = False
            self.transport.resume_reading()

    def on_read(self, size: int) -> None:
        """So much was read. Less than could have been means that all that the peer wrote has come."""
        if 0 < size < LARGE_BYTES:
            self._stall_s = 0

    def stalled_s(self) -> int:
        """To be asked every second: for how long a peer that still waits has waited."""
        self._stall_s = self._stall_s + 1 if self._was_held else 0
        self._was_held = bool(self.holds & STALLS)
        return self._stall_s if self._was_held else 0

    @property
    def is_calm(self) -> bool:
        """Whether no stall is under way, nor one that may go on."""
        return not (self._stall_s or self._was_held)
