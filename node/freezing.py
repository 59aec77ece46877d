"""When a node takes its connections out of the garbage collector's sight: a look at 9,000 of them holds the loop up for 100 ms.

Connections that go are freed by their reference counts and leave nothing to the collector, nearly always. So all are looked at only when
most have gone, and there is little to look at. Knows how many connections there are, and not what they are.
"""

import gc

WAVE = 500  # connections


class Freezer:
    """Looks now and then."""

    def __init__(self) -> None:
        self._frozen = 0  # connections, when they were frozen last
        self._least = 0  # that there have been since

    def look(self, count: int) -> None:
        """There are so many connections now."""
        self._least = min(self._least, count)
        if self._frozen - count > max(WAVE, self._frozen // 2):
            gc.unfreeze()
            self._freeze(count, 2)
        elif count - self._least > WAVE:
            self._freeze(count, 0)

    def _freeze(self, count: int, generation: int) -> None:
        gc.collect(generation)
        gc.freeze()
        self._frozen = self._least = count
