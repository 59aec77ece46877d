"""Chance of the fault tests: drawn from a seed that is told, so that what it brought about can be asked for again."""

import os
import random

import pytest

from tests.support.said import Say


@pytest.fixture
def seed(say: Say) -> int:
    """FAULT_SEED, or another each time."""
    seed = int(os.environ.get("FAULT_SEED") or random.getrandbits(32))
    say(f"FAULT_SEED={seed}")
    return seed


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)
