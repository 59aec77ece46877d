"""Whether a connection is read from: who holds it back, and for how long that has been so.

Owns the transport's pause, and the patience of a peer whose writes we leave waiting. What to do when it runs out is the
link's. Held back by the session or for want of room, seconds add up, also over short reliefs: a stall is over once a read
has taken all that the peer wrote, or a second went by without a pause. Giving others a turn is no stall.
"""

import asyncio

SESSION, ROOM, TURN = 1, 2, 4  # the session asked for it; large frames have no room; others have a turn
STALLS = SESSION | ROOM
ALL = STALLS | TURN


class Intake:
    """Of one connection. `holds` is empty while it is read from; `stall_s` counts the seconds of a stall."""

    __slots__ = ("_is_stopped", "_was_held", "holds", "stall_s", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.holds = 0
        self.stall_s = 0
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

    def stalled_s(self) -> int:
        """To be asked every second: for how long a peer that still waits has waited."""
        self.stall_s = self.stall_s + 1 if self._was_held else 0
        self._was_held = bool(self.holds & STALLS)
        return self.stall_s if self._was_held else 0

    @property
    def is_calm(self) -> bool:
        """Whether no stall is under way, nor one that may go on."""
        return not (self.stall_s or self._was_held)
