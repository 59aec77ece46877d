"""How late an event loop runs."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from cluster.process_load import LoopLag


class Clock:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[asyncio.TimerHandle] = []
        self.loop = asyncio.new_event_loop()
        self.loop.time = lambda: self.now_s  # type: ignore[method-assign]

    def to(self, now_s: float) -> None:
        """Time is this, and what is due runs once."""
        self.now_s = now_s
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    made.loop.close()


def test_a_loop_on_time_has_no_lag(clock: Clock) -> None:
    lag = LoopLag(clock.loop, interval_s=0.25)
    assert lag.read() == 0
    lag.start()
    for step in range(1, 10):
        clock.to(100 + step * 0.25)
    assert lag.read() == pytest.approx(0)


def test_the_worst_delay_is_told_until_its_window_is_over(clock: Clock) -> None:
    lag = LoopLag(clock.loop, interval_s=0.25, window_s=10)
    lag.start()
    clock.to(102.25)
    assert lag.read() == pytest.approx(2.0)
    clock.to(102.5)
    assert lag.read() == pytest.approx(2.0)
    for step in range(40):
        clock.to(102.75 + step * 0.25)
    assert lag.read() == pytest.approx(2.0)
    for step in range(40):
        clock.to(112.75 + step * 0.25)
    assert lag.read() == pytest.approx(0.0)


def test_a_tick_that_is_late_and_has_not_run_yet_counts(clock: Clock) -> None:
    lag = LoopLag(clock.loop, interval_s=0.25)
    lag.start()
    clock.now_s = 103.25
    assert lag.read() == pytest.approx(3.0)


def test_stopping_twice_is_fine_and_leaves_no_timer(clock: Clock) -> None:
    lag = LoopLag(clock.loop)
    lag.start()
    lag.stop()
    lag.stop()
    clock.to(200.0)
    assert lag.read() == 0


async def test_a_blocked_loop_is_seen_by_the_real_clock() -> None:
    lag = LoopLag(asyncio.get_running_loop(), interval_s=0.01)
    lag.start()
    threading.Event().wait(0.1)
    await asyncio.sleep(0)
    lag.stop()
    assert lag.read() >= 0.05
