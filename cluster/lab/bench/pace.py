"""Open-loop load: what is due goes out when it is due, however late the answers are. Else a slow server would be asked less (coordinated omission)."""

import asyncio
import time
from collections.abc import Callable

_TICK_S = 0.001


async def at_rate(per_s: float, seconds: float, fire: Callable[[int], None]) -> int:
    """Calls `fire(due_ns)` for each piece of load; returns how many there were. What fell behind is made up for, and stays due when it was."""
    if per_s <= 0:
        return 0
    began_ns = time.monotonic_ns()
    gap_ns = 1e9 / per_s
    total = int(per_s * seconds)
    fired = 0
    while fired < total:
        due = min(total, int((time.monotonic_ns() - began_ns) / gap_ns) + 1)
        while fired < due:
            fire(began_ns + int(fired * gap_ns))
            fired += 1
        await asyncio.sleep(_TICK_S)
    return fired
