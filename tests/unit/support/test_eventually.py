"""Waiting ends when nothing is wrong, and says what still is when it does not."""

import asyncio
import itertools

import pytest

from tests.support.eventually import eventually, eventually_blocking


async def test_it_asks_until_nothing_is_wrong() -> None:
    answers = iter(["wrong", ["still"], 1, None])
    await eventually(lambda: next(answers), every_s=0.001)
    assert next(answers, "asked no further") == "asked no further"


async def test_it_says_what_was_wrong_last() -> None:
    count = itertools.count(1)
    with pytest.raises(AssertionError, match=r"after 0.05 s still: \d+ tasks open"):
        await eventually(lambda: f"{next(count)} tasks open", 0.05, every_s=0.01)
    assert next(count) > 2


async def test_a_check_may_be_a_coroutine() -> None:
    answers = iter(["wrong", ""])

    async def check() -> str:
        await asyncio.sleep(0)
        return next(answers)

    await eventually(check, every_s=0.001)


async def test_a_check_that_hangs_is_what_is_wrong() -> None:
    with pytest.raises(AssertionError, match="the check itself hangs"):
        await eventually(lambda: asyncio.sleep(3600), 0.05)


async def test_a_check_that_raises_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 // 0)


def test_it_waits_without_a_loop_too() -> None:
    answers = iter(["wrong", ""])
    eventually_blocking(lambda: next(answers), every_s=0.001)
    with pytest.raises(AssertionError, match=r"after 0.01 s still: \[1\]"):
        eventually_blocking(lambda: [1], 0.01, every_s=0.001)
