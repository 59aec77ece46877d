"""Open-loop load: what is due goes out when it is due, however late the answers are. Else a slow server would be asked less (coordinated omission).

A thread keeps the time: the timers of an event loop are late by up to 2 ms, which would be told as the latency of the server.
"""

import asyncio
import time
from collections.abc import Callable

_TICK_S = 0.001  # what is due within one goes out in one go


class _Load:
    """So many pieces, one every `gap_ns` from now on."""

    def __init__(self, total: int, gap_ns: float, fire: Callable[[int], None]) -> None:
        self._total = total
        self._gap_ns = gap_ns
        self._fire = fire
        self._began_ns = time.monotonic_ns()
        self.fired = 0
        self.is_wanted = True
        self.fault: Exception | None = None

    def keep_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has the loop send what is due, until nothing is left. In a thread."""
        due = 0
        while due < self._total and self.is_wanted:
            due = min(self._total, int((time.monotonic_ns() - self._began_ns) / self._gap_ns) + 1)
            loop.call_soon_threadsafe(self.send, due)
            next_s = (self._due_ns(due) - time.monotonic_ns()) / 1e9
            time.sleep(max(_TICK_S, next_s))

    def send(self, due: int) -> None:
        """The first so many pieces go out, but for those that have gone. What fell behind stays due when it was."""
        try:
            while self.fired < due and self.is_wanted:
                self._fire(self._due_ns(self.fired))
                self.fired += 1
        except Exception as error:  # noqa: BLE001 - raised by who waits for all of it
            self.fault, self.is_wanted = error, False

    def _due_ns(self, piece: int) -> int:
        return self._began_ns + int(piece * self._gap_ns)


async def at_rate(per_s: float, seconds: float, fire: Callable[[int], None]) -> int:
    """Calls `fire(due_ns)` for each piece of load; returns how many there were. Raises: what `fire` raised."""
    if per_s <= 0:
        return 0
    load = _Load(int(per_s * seconds), 1e9 / per_s, fire)
    try:
        await asyncio.to_thread(load.keep_time, asyncio.get_running_loop())
    finally:
        load.is_wanted = False  # by who was cancelled
    if load.fault is not None:
        raise load.fault
    return load.fired
