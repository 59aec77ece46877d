from node.wheel import SLOTS, Wheel
from tests.unit.node.link_bench import FakeLoop


class Rider:
    def __init__(self, wheel: Wheel) -> None:
        self.wheel = wheel
        self.turns: list[int] = []
        self.looks: list[int] = []

    def on_wheel(self) -> None:
        self.turns.append(self.wheel.now)

    def on_watch(self) -> None:
        self.looks.append(self.wheel.now)


def started() -> tuple[FakeLoop, Wheel, Rider]:
    loop = FakeLoop()
    wheel = loop.new_wheel()
    return loop, wheel, Rider(wheel)


def test_a_rider_is_called_once_in_its_second() -> None:
    loop, wheel, rider = started()
    wheel.add(rider, 3)
    loop.pass_time(200)
    assert rider.turns == [3]


def test_what_is_further_off_than_the_ring_comes_sooner() -> None:
    loop, wheel, rider = started()
    wheel.add(rider, 1000)
    loop.pass_time(SLOTS)
    assert rider.turns == [SLOTS - 1]


def test_who_is_watched_is_looked_at_every_second_until_it_is_not() -> None:
    loop, wheel, rider = started()
    wheel.watch(rider)
    wheel.watch(rider)
    loop.pass_time(3)
    wheel.unwatch(rider)
    wheel.unwatch(rider)
    loop.pass_time(3)
    assert rider.looks == [1, 2, 3]


def test_a_stopped_process_finds_the_time_gone_and_counts_it_as_one_look() -> None:
    loop, wheel, rider = started()
    wheel.add(rider, 5)
    wheel.watch(rider)
    loop.jump(20)
    assert (wheel.now, rider.turns, rider.looks) == (20, [20], [20])


def test_a_gap_longer_than_the_ring_leaves_nobody_behind() -> None:
    loop, wheel, rider = started()
    for seconds in range(1, SLOTS):
        wheel.add(rider, seconds)
    loop.jump(10 * SLOTS)
    assert len(rider.turns) == SLOTS - 1


def test_seconds_follow_the_clock_and_do_not_drift() -> None:
    loop, wheel, _ = started()
    for _ in range(100):
        loop.jump(0.75)
    assert wheel.now == 75


def test_a_timer_that_fires_early_turns_nothing() -> None:
    loop, wheel, rider = started()
    wheel.watch(rider)
    loop.now_s += 0.999
    wheel._turn()
    assert (wheel.now, rider.looks) == (0, [])


def test_starting_twice_turns_it_once() -> None:
    loop, wheel, rider = started()
    wheel.start(wheel.loop)
    wheel.watch(rider)
    loop.pass_time(2)
    assert rider.looks == [1, 2]


def test_once_stopped_it_holds_nobody() -> None:
    loop, wheel, rider = started()
    wheel.add(rider, 1)
    wheel.watch(rider)
    wheel.stop()
    loop.pass_time(2)
    assert rider.turns + rider.looks == []


def test_its_second_may_be_shorter() -> None:
    loop = FakeLoop()
    wheel = loop.new_wheel(second_s=0.5)
    loop.pass_time(3)
    assert wheel.now == 6
