from collections.abc import Callable

import pytest

from node.limits import Limits
from node.room import LARGE_BYTES
from node.socket import Link
from tests.unit.node.frame_text import CONTINUATION, TEXT, close, frame, text
from tests.unit.node.link_bench import KIB, SHORT, Bench, Recorder, large, numbered, on

# Pauses


def test_a_pause_keeps_the_rest_until_resume() -> None:
    bench = Bench(session=Recorder(on(b"1", Link.pause))).begin()
    bench.hear(*map(text, numbered(4)))
    assert bench.session.messages == numbered(2)
    assert bench.transport.is_paused
    bench.link.resume()
    assert bench.session.messages == numbered(2), "nothing is handed over within resume"
    bench.loop.settle()
    assert bench.session.messages == numbered(4)
    assert not bench.transport.is_paused


def test_a_pause_at_the_last_message_stops_reading_too() -> None:
    bench = Bench(session=Recorder(on(b"1", Link.pause))).begin()
    bench.hear(*map(text, numbered(2)))
    assert bench.transport.is_paused


def test_pausing_twice_needs_one_resume() -> None:
    bench = Bench().begin()
    bench.link.pause()
    bench.link.pause()
    bench.link.resume()
    assert not bench.transport.is_paused


def test_resuming_within_the_same_message_changes_nothing() -> None:
    def blink(link: Link) -> None:
        link.pause()
        link.resume()

    bench = Bench(session=Recorder(on(b"1", blink))).begin()
    bench.hear(*map(text, numbered(4)))
    assert bench.session.messages == numbered(4)
    assert not bench.transport.is_paused


def test_a_pause_amid_a_turn_outlasts_it() -> None:
    bench = Bench(SHORT).begin()
    bench.link.data_received(b"".join(map(text, numbered(20))))
    bench.link.pause()
    bench.loop.settle()
    assert len(bench.session.messages) == 8
    bench.link.resume()
    bench.loop.settle()
    assert bench.session.messages == numbered(20)


def test_a_pause_within_its_patience_is_borne() -> None:
    bench = Bench(SHORT).begin()
    bench.link.pause()
    bench.loop.pass_time(3)
    assert bench.link.is_open
    bench.link.resume()
    bench.loop.pass_time(60)
    assert bench.link.is_open


def test_a_pause_beyond_it_ends_with_1011() -> None:
    bench = Bench(SHORT).begin()
    bench.link.pause()
    bench.loop.pass_time(4)
    assert bench.said_codes() == [1011]
    assert bench.link.close_code == 1011
    assert not bench.transport.is_paused, "what the peer still sends is discarded"


@pytest.mark.parametrize("step_s", [0.5, 1.5])
def test_short_reliefs_do_not_prolong_a_stall(step_s: float) -> None:
    bench = Bench(SHORT, Recorder(lambda session, _: session.link.pause() if session.link else None)).begin()
    bench.hear(*map(text, numbered(90)))
    elapsed_s = 0.0
    while bench.link.is_open:
        bench.link.resume()
        bench.loop.settle()
        bench.loop.pass_time(step_s)
        elapsed_s += step_s
    assert 3 < elapsed_s <= 6
    assert bench.said_codes() == [1011]


def test_pauses_with_all_read_in_between_are_no_stall() -> None:
    bench = Bench(SHORT).begin()
    for _ in range(20):
        bench.link.pause()
        bench.loop.pass_time(2)
        bench.link.resume()
        bench.hear(text(b"a"))
    assert bench.link.is_open


def test_pauses_with_a_second_of_calm_in_between_are_no_stall() -> None:
    bench = Bench(SHORT).begin()
    for _ in range(20):
        bench.link.pause()
        bench.loop.pass_time(2)
        bench.link.resume()
        bench.loop.pass_time(2)
    assert bench.link.is_open


def test_reads_with_more_to_come_do_not_end_a_stall() -> None:
    bench = Bench(SHORT).begin()
    for _ in range(5):
        bench.link.pause()
        bench.loop.pass_time(1)
        bench.link.resume()
        bench.link.data_received(text(b"a" * LARGE_BYTES))
    assert bench.said_codes() == [1011]


def test_what_still_comes_amid_a_pause_is_kept() -> None:
    """A TLS transport may have decrypted more before it was told."""
    bench = Bench().begin()
    bench.link.pause()
    bench.hear(text(b"1"), text(b"2")[:3])
    bench.hear(text(b"2")[3:])
    assert bench.session.messages == []
    bench.link.resume()
    bench.loop.settle()
    assert bench.session.messages == [b"1", b"2"]


def test_turns_after_a_pause_are_no_stall() -> None:
    bench = Bench(SHORT, Recorder(on(b"0", Link.pause))).begin()
    bench.link.data_received(b"".join(map(text, numbered(500))))
    bench.loop.pass_time(1)
    bench.link.resume()
    while len(bench.session.messages) < 500:
        bench.loop.now_s += 1
        bench.wheel._turn()
        bench.loop.turn()
    assert bench.link.is_open


def test_a_long_backlog_is_no_stall() -> None:
    bench = Bench(SHORT).begin()
    bench.link.data_received(b"".join(map(text, numbered(500))))
    while len(bench.session.messages) < 500:
        bench.loop.now_s += 1
        bench.wheel._turn()
        bench.loop.turn()
    assert bench.link.is_open


# Large frames


def test_large_frames_share_a_budget_and_one_finishes_after_the_other() -> None:
    limits = Limits(max_message_bytes=1 << 20, large_frames_bytes=1 << 20)
    first = Bench(limits).begin()
    second = Bench(limits, beside=first).begin()
    first.hear(large()[: 500 * KIB])
    second.hear(large()[: 550 * KIB])
    assert (first.transport.is_paused, second.transport.is_paused) == (False, True)
    first.hear(large()[500 * KIB :])
    assert [len(message) for message in first.session.messages] == [600 * KIB]
    assert not second.transport.is_paused
    second.hear(large()[550 * KIB :])
    assert [len(message) for message in second.session.messages] == [600 * KIB]
    assert first.wheel.room.held_bytes == 0


def test_who_waits_for_room_for_too_long_gives_back_what_it_held() -> None:
    limits = Limits(max_message_bytes=1 << 20, large_frames_bytes=1 << 20, stall_s=3, close_s=2)
    first = Bench(limits).begin()
    second = Bench(limits, beside=first).begin()
    first.hear(large()[: 550 * KIB])
    second.hear(large()[: 550 * KIB])
    first.loop.pass_time(5)
    assert first.link.is_open, "it may read, and nothing came"
    assert second.said_codes() == [1011]
    assert first.wheel.room.held_bytes == 550 * KIB


def test_fragments_of_a_large_message_count_as_well() -> None:
    bench = Bench().begin()
    bench.hear(frame(TEXT, b"a" * LARGE_BYTES, fin=False), frame(CONTINUATION, b"b" * 100, fin=False))
    assert bench.wheel.room.held_bytes == LARGE_BYTES + 101
    bench.hear(frame(CONTINUATION, b"c"))
    assert bench.wheel.room.held_bytes == 0


def test_small_frames_do_not_count() -> None:
    bench = Bench().begin()
    bench.hear(text(b"a" * LARGE_BYTES)[:-20])
    assert bench.wheel.room.held_bytes == 0


def test_what_comes_behind_a_close_is_not_held() -> None:
    bench = Bench().begin()
    bench.hear(close(1000), large()[:-1])
    assert bench.link._reader.held_bytes == 0
    assert bench.wheel.room.held_bytes == 0


@pytest.mark.parametrize("end", [Link.abort, Link.shutdown, Link.eof_received, lambda link: link.connection_lost(None)])
def test_a_connection_that_ends_gives_its_room_back(end: Callable[[Link], None]) -> None:
    bench = Bench(SHORT).begin()
    bench.hear(large()[:-1])
    assert bench.wheel.room.held_bytes > LARGE_BYTES
    end(bench.link)
    bench.loop.pass_time(5)
    assert bench.wheel.room.held_bytes == 0
