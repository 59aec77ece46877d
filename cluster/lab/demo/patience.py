"""Waiting for what nobody announces: it is looked at again and again, until a deadline that says what was missing."""

import asyncio
from collections.abc import Awaitable, Callable

from cluster.client.outcome import Failed

_POLL_S = 0.05


async def until(is_so: Callable[[], bool | Awaitable[bool]], within_s: float, what: str) -> None:
    """Waits until it is so. Raises: Failed, "`what` within n s"."""
    try:
        async with asyncio.timeout(within_s):
            while not (answer if isinstance(answer := is_so(), bool) else await answer):  # noqa: ASYNC110 - who would tell us?
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise Failed(f"{what} within {within_s:g} s") from None
