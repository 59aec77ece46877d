"""How long to wait before the next attempt, so that ten thousand agents do not come back in step.

Knows no clock: the waiting is the caller's. The wait doubles up to the longest and is then blurred by half in both directions: jitter
after the cap, else all who reached it would meet again.
"""

import random

LONGEST_RETRY_AFTER_S = 300.0  # what a server may ask for


class Backoff:
    """Counts the failures in a row."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def next_s(self, retry_after_s: float = 0.0) -> float:
        """One more failure: seconds to wait now, never less than the server asked for."""
        plain_s = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return min(retry_after_s, LONGEST_RETRY_AFTER_S) + plain_s * random.uniform(0.5, 1.5)

    def reset(self) -> None:
        """Things go well."""
        self._failures = 0
