"""What the links of one process share: the seconds, whose turn it is in them, and the room for large frames.

A link has no timer of its own. It sits in one of a ring of slots, each a second, for its next look at a quiet peer; and
while a deadline runs for it (it does not read, its peer does not, it is closing) it is watched: looked at every second.
Knows nothing of what links do then. `now` follows the loop's clock: a process that was stopped finds the time gone by.
"""

import asyncio
from typing import Protocol

from node.room import Room

SLOTS = 64


class Rider(Protocol):
    """A link, as the wheel sees it. Neither call may raise."""

    def on_wheel(self) -> None:
        """The seconds given to `add` have gone by (or the ring has no slot that far off)."""

    def on_watch(self) -> None:
        """Another second, or more where the process was held up, while watched."""


class Wheel:
    """One in a process. `second_s` lets tests live faster."""

    def __init__(self, second_s: float = 1.0) -> None:
        self.now = 0
        self.room = Room()
        self._second_s = second_s
        self._slots: list[list[Rider]] = [[] for _ in range(SLOTS)]
        self._watched: dict[Rider, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._origin = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop it was started on."""
        assert self._loop is not None, "the wheel was not started"  # noqa: S101 - for the type checker
        return self._loop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to turn; the second call changes nothing."""
        if self._loop is None:
            self._loop = loop
            self._origin = loop.time()
            self._turn()

    def stop(self) -> None:
        """Turns no more, and holds nobody."""
        if self._timer is not None:
            self._timer.cancel()
        self._slots = [[] for _ in range(SLOTS)]
        self._watched = {}

    def add(self, rider: Rider, seconds: int) -> None:
        """Calls the rider's `on_wheel` once, in that many seconds, or sooner where that is more than the ring holds."""
        self._slots[(self.now + min(seconds, SLOTS - 1)) % SLOTS].append(rider)

    @property
    def watched(self) -> tuple[Rider, ...]:
        """Who is watched now."""
        return tuple(self._watched)

    def watch(self, rider: Rider) -> None:
        """Calls the rider's `on_watch` every second until `unwatch`."""
        self._watched[rider] = None

    def unwatch(self, rider: Rider) -> None:
        """Ends `watch`; nothing to end is fine."""
        self._watched.pop(rider, None)

    def _turn(self) -> None:
        before, self.now = self.now, int((self.loop.time() - self._origin) / self._second_s)
        self._timer = self.loop.call_at(self._origin + (self.now + 1) * self._second_s, self._turn)
        if self.now == before:  # a timer may fire a millisecond early
            return
        for rider in self._due(before):
            rider.on_wheel()
        for rider in tuple(self._watched):
            rider.on_watch()

    def _due(self, before: int) -> list[Rider]:
        due: list[Rider] = []
        for second in range(before + 1, min(self.now, before + SLOTS) + 1):
            due += self._slots[second % SLOTS]
            self._slots[second % SLOTS] = []
        return due
