import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.room import Room

LIMIT = 1000


class Holder:
    """Sends one frame of a known length, in pieces, as long as it may."""

    def __init__(self, room: Room, size: int) -> None:
        self.room = room
        self.size = size
        self.held = 0
        self.waits = False

    def missing_bytes(self) -> int:
        return self.size - self.held

    def on_room(self) -> None:
        self.waits = False

    def get(self, count: int) -> None:
        assert not self.waits
        before, self.held = self.held, min(self.size, self.held + count)
        self.waits = not self.room.change(self, before, self.held, LIMIT)

    def end(self) -> None:
        before, self.held = self.held, 0
        self.waits = False
        self.room.change(self, before, 0, LIMIT)


def holders(*sizes: int) -> tuple[Room, list[Holder]]:
    room = Room()
    return room, [Holder(room, size) for size in sizes]


def test_within_the_limit_nobody_waits() -> None:
    room, (first, second) = holders(600, 400)
    first.get(600)
    second.get(400)
    assert (first.waits, second.waits, room.held_bytes) == (False, False, 1000)


def test_beyond_it_who_sends_waits_until_another_has_finished() -> None:
    _, (first, second) = holders(700, 700)
    first.get(600)
    second.get(600)
    assert second.waits
    first.get(100)
    first.end()
    assert not second.waits


def test_when_all_others_wait_one_reads_on_whatever_the_sum() -> None:
    _, (first, second) = holders(900, 900)
    first.get(600)
    second.get(600)
    first.get(300)
    assert (first.waits, second.waits) == (False, True)


def test_alone_a_frame_may_be_larger_than_the_limit() -> None:
    _, (only,) = holders(5000)
    only.get(5000)
    assert not only.waits


@pytest.mark.parametrize(("size", "third_waits"), [(700, False), (900, True)])
def test_who_waited_longest_is_let_in_first_and_others_while_it_will_fit(size: int, third_waits: bool) -> None:
    _, (first, second, third) = holders(1200, size, size)
    first.get(900)
    second.get(200)
    third.get(200)
    assert (second.waits, third.waits) == (True, True)
    first.end()
    assert (second.waits, third.waits) == (False, third_waits)


def test_one_that_waits_may_end_and_is_not_let_in_later() -> None:
    room, (first, second) = holders(900, 900)
    first.get(800)
    second.get(800)
    second.end()
    first.end()
    assert (room.held_bytes, room._holders, room._waiting) == (0, 0, {})


def test_one_that_gave_up_waiting_is_forgotten() -> None:
    room, (first, second, third) = holders(2000, 900, 900)
    first.get(900)
    second.get(200)
    third.get(200)
    third.end()
    assert list(room._waiting) == [second]


STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 400)), max_size=200)


@given(STEPS)
def test_somebody_can_always_go_on_and_the_sum_stays_bounded(steps: list[tuple[int, int]]) -> None:
    room, crowd = holders(*[900] * 6)
    for number, count in steps:
        holder = crowd[number]
        if not holder.waits:
            holder.get(count)
            if not holder.missing_bytes():
                holder.end()
        assert room.held_bytes == sum(holder.held for holder in crowd)
        assert not all(holder.waits for holder in crowd if holder.held) or not room.held_bytes
        assert room.held_bytes <= LIMIT + 900 + 6 * 400  # one frame, and a read of each
