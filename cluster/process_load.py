"""How busy this process is: its share of a CPU, and how late its event loop runs. Knows nothing of what it works on."""

import asyncio
import time


class CpuShare:
    """How much of a CPU this process used since it was asked last, in percent."""

    def __init__(self) -> None:
        self._used_s, self._at_s = time.process_time(), time.monotonic()

    def read(self) -> int:
        """From the last reading to now."""
        used_s, at_s = time.process_time(), time.monotonic()
        share = (used_s - self._used_s) / max(at_s - self._at_s, 0.001)
        self._used_s, self._at_s = used_s, at_s
        return round(100 * share)


class LoopLag:
    """How late this process's event loop runs what is due: the worst of the last 10 to 20 s, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float = 0.25, window_s: float = 10.0) -> None:
        """Measures nothing until `start`."""
        self._loop = loop
        self._interval_s = interval_s
        self._window_s = window_s
        self._due_s = 0.0
        self._window_ends_s = 0.0
        self._worst_s = self._before_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to measure; from the loop's own thread."""
        self.stop()
        self._window_ends_s = self._loop.time() + self._window_s
        self._arm()

    def stop(self) -> None:
        """Ends it. Twice is fine."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def read(self) -> float:
        """For a gauge. Also counts a tick that is late and has not run yet."""
        late_s = self._loop.time() - self._due_s if self._timer is not None else 0.0
        return max(self._worst_s, self._before_s, late_s)

    def _arm(self) -> None:
        self._due_s = self._loop.time() + self._interval_s
        self._timer = self._loop.call_at(self._due_s, self._tick)

    def _tick(self) -> None:
        now_s = self._loop.time()
        if now_s >= self._window_ends_s:
            self._before_s, self._worst_s = self._worst_s, 0.0
            self._window_ends_s = now_s + self._window_s
        self._worst_s = max(self._worst_s, now_s - self._due_s)
        self._arm()
