import pytest

from node.limits import Limits
from tests.unit.node.frame_text import PING, frame, text
from tests.unit.node.link_bench import KIB, SHORT, Bench, Recorder, flooding


def test_a_full_buffer_is_told_and_so_is_its_draining() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    writable = []
    for size in (60 * KIB, 10 * KIB):
        bench.link.send(b"a" * size)
        writable.append(bench.link.writable)
    for size in (30 * KIB, 10 * KIB):
        assert bench.session.calls == ["attached"]
        bench.transport.take(size)
        writable.append(bench.link.writable)
    assert writable == [True, False, False, True]
    assert bench.session.calls == ["attached", "writable"]


def test_one_frame_may_be_larger_than_the_mark() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 500 * KIB)
    bench.link.send(b'{"type":"ack"}')
    assert bench.link.is_open
    assert len(bench.said()) == 2


def test_another_large_frame_on_top_is_too_much() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 500 * KIB)
    bench.link.send(b"a" * 500 * KIB)
    assert bench.transport.is_aborted
    assert bench.link.close_code == 4413


@pytest.mark.parametrize("size", [1, 100, 5000, 60_000])
def test_what_waits_is_bounded_whatever_is_sent(size: int) -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    for _ in range(400_000 // size):
        bench.link.send(b"a" * size)
    assert bench.link.close_code == 4413
    assert bench.transport.get_write_buffer_size() <= 64 * KIB * 5 // 4 + size + 10


@pytest.mark.parametrize("size", [4000, 60_000])
def test_what_waits_is_bounded_within_a_pass_too(size: int) -> None:
    bench = Bench(session=Recorder(flooding)).begin()
    bench.transport.peer_reads = False
    bench.hear(text(b"x" * size))
    assert bench.link.close_code == 4413
    assert bench.transport.get_write_buffer_size() < 2 << 20
    assert bench.session.calls == ["attached", "lost"]


def test_pings_of_a_peer_that_does_not_read_do_not_pile_up() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.hear(frame(PING, b"x" * 125) * 2000)
    assert bench.link.close_code == 4413


def test_who_takes_nothing_for_too_long_is_cut() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 70 * KIB)
    bench.loop.pass_time(3)
    assert bench.link.is_open
    bench.loop.pass_time(1)
    assert bench.session.calls == ["attached", "lost"]
    assert bench.link.close_code == 4413


def test_a_trickle_is_too_slow() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 500 * KIB)
    for _ in range(4):
        bench.transport.take(5 * KIB)
        bench.loop.pass_time(1)
    assert bench.link.close_code == 4413


def test_a_large_frame_may_take_its_time_while_it_moves() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 500 * KIB)
    for _ in range(20):
        bench.transport.take(24 * KIB)
        bench.loop.pass_time(1)
    assert bench.link.is_open
    assert bench.link.writable


def test_a_crowded_link_is_not_pinged() -> None:
    bench = Bench(Limits(high_water_bytes=KIB, ping_s=2, stall_s=5)).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 2 * KIB)
    bench.said()
    bench.loop.pass_time(4)
    assert bench.said() == []
