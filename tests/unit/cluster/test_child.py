"""How often a child that dies is started again."""

import pytest

from cluster.child import Backoff, Pace


def test_the_first_restart_is_at_once_and_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(Pace())
    assert [backoff.delay_s(1) for _ in range(9)] == [0, 0.5, 1, 2, 4, 8, 10, 10, 10]


def test_a_long_life_starts_the_count_anew() -> None:
    backoff = Backoff(Pace())
    assert [backoff.delay_s(lived_s) for lived_s in (0, 0, 0, 29.9, 30, 0, 0)] == [0, 0.5, 1, 2, 0, 0.5, 1]


@pytest.mark.parametrize("deaths", [10_000])
def test_pauses_stay_bounded_for_ever(deaths: int) -> None:
    backoff = Backoff(Pace())
    assert max(backoff.delay_s(0) for _ in range(deaths)) == 10
