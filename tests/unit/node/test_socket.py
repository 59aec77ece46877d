import gc
import logging
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.limits import Limits
from node.room import LARGE_BYTES
from node.socket import Link
from tests.unit.node.frame_text import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    VIOLATIONS,
    Frame,
    close,
    deflated,
    frame,
    text,
)
from tests.unit.node.link_bench import Bench, FakeLoop, FakeTransport, Recorder

KIB = 1024
SHORT = Limits(max_message_bytes=1 << 20, high_water_bytes=64 * KIB, pass_messages=8, ping_s=4, close_s=2, stall_s=3)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def echoing(session: Recorder, payload: bytes) -> None:
    assert session.link is not None
    session.link.send(payload)


def flooding(session: Recorder, payload: bytes) -> None:
    for _ in range(2000):
        echoing(session, payload)


def on(message: bytes, act: Callable[[Link], object]) -> Callable[[Recorder, bytes], object]:
    """A session that does this on one message."""

    def react(session: Recorder, payload: bytes) -> None:
        assert session.link is not None
        if payload == message:
            act(session.link)

    return react


def failing(session: Recorder, payload: bytes) -> None:
    if payload == b"boom":
        raise ValueError(payload)


# Messages


def test_a_session_is_attached_before_anything_else() -> None:
    bench = Bench().begin()
    assert bench.session.calls == ["attached"]
    assert bench.session.link is bench.link
    assert bench.peers == {bench.link}


def test_messages_are_handed_over_and_answers_sent_in_order() -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(*map(text, numbered(1000)))
    assert [frame.payload for frame in bench.said()] == numbered(1000)


def test_answers_of_one_read_leave_in_one_write() -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(*map(text, numbered(100)))
    assert len(bench.transport.writes) == 1


def test_a_large_answer_does_not_overtake_small_ones() -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(text(b"1"), text(b"a" * 100_000), text(b"2"))
    assert [len(frame.payload) for frame in bench.said()] == [1, 100_000, 1]


def test_finished_frames_are_sent_as_they_are() -> None:
    bench = Bench().begin()
    bench.link.send_frames(b"\x81\x01a\x81\x01b")
    assert bench.said() == [Frame(0x81, b"a"), Frame(0x81, b"b")]


def test_a_ping_is_answered_in_its_turn() -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(text(b"a"), frame(PING, b"p"), text(b"b"))
    assert bench.said() == [Frame(0x81, b"a"), Frame(0x8A, b"p"), Frame(0x81, b"b")]


def test_what_came_before_the_session_is_handed_over_first_and_not_at_once() -> None:
    bench = Bench()
    bench.begin(text(b"early") + text(b"cut")[:3])
    assert bench.session.messages == []
    paused = [bench.transport.is_paused]
    bench.loop.settle()
    paused.append(bench.transport.is_paused)
    assert paused == [True, False]
    bench.hear(text(b"cut")[3:])
    assert bench.session.messages == [b"early", b"cut"]


def test_a_peer_with_a_backlog_gives_others_a_turn() -> None:
    bench = Bench(SHORT).begin()
    bench.link.data_received(b"".join(map(text, numbered(20))))
    seen = [len(bench.session.messages)]
    while len(bench.session.messages) < 20:
        assert bench.transport.is_paused
        bench.loop.turn()
        seen.append(len(bench.session.messages))
    assert seen == [8, 16, 20]
    assert not bench.transport.is_paused


SEGMENTS = st.lists(st.integers(min_value=1, max_value=400), min_size=1, max_size=30)
MOVES = st.lists(st.sampled_from(["read", "pause", "resume", "turn", "second"]), max_size=60)


@given(SEGMENTS, MOVES)
def test_however_reads_and_pauses_fall_messages_come_whole_and_in_order(lengths: list[int], moves: list[str]) -> None:
    bench = Bench(SHORT).begin()
    messages = [b"%d:" % number + b"x" * length for number, length in enumerate(lengths)]
    data = b"".join(map(text, messages))
    for move in moves:
        if move == "read" and not bench.transport.is_paused:
            bench.link.data_received(data[:97])
            data = data[97:]
        elif move == "pause":
            bench.link.pause()
        elif move == "resume":
            bench.link.resume()
        elif move == "turn":
            bench.loop.turn()
    bench.link.resume()
    bench.loop.settle()
    bench.hear(data)
    assert bench.session.messages == messages
    assert not bench.transport.is_paused


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


def large(size: int = 600 * KIB) -> bytes:
    return text(b"a" * size)


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


# A slow reader


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


# Silence


def test_a_silent_peer_is_pinged_again_and_again_and_never_cut() -> None:
    bench = Bench(SHORT).begin()
    bench.loop.pass_time(41)
    assert bench.said() == [Frame(0x89, b"")] * 10
    assert bench.link.is_open


def test_a_peer_that_talks_is_not_pinged() -> None:
    bench = Bench(SHORT).begin()
    for _ in range(30):
        bench.hear(text(b"a"))
        bench.loop.pass_time(3)
    assert bench.said() == []


def test_the_ping_comes_so_long_after_the_last_byte() -> None:
    bench = Bench(SHORT).begin()
    bench.loop.pass_time(3)
    bench.hear(text(b"a"))
    counts = []
    for _ in range(5):
        bench.loop.pass_time(1)
        counts.append(len(bench.said()))
    assert counts == [0, 0, 0, 1, 0]


def test_any_byte_is_a_sign_of_life() -> None:
    bench = Bench(SHORT).begin()
    bench.loop.pass_time(3)
    assert bench.wheel.now - bench.link.heard == 3
    bench.hear(frame(PONG)[:1])
    assert bench.wheel.now - bench.link.heard == 0


# Ends


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_answered_and_nothing_after_it_is_heard(name: str) -> None:
    data, code = VIOLATIONS[name]
    bench = Bench().begin()
    bench.hear(text(b"before"), data, text(b"after"))
    bench.hear(text(b"later"))
    assert bench.session.messages == [b"before"]
    assert bench.said_codes() == [code]
    assert bench.transport.eof_written
    bench.transport.lose()
    assert bench.session.calls == ["attached", "lost"]


@pytest.mark.parametrize(
    ("said", "answer", "code"),
    [(close(1000, b"bye"), 1000, 1000), (close(4000), 4000, 4000), (frame(CLOSE), None, 1005)],
)
def test_a_peers_close_is_answered_with_its_own_code(said: bytes, answer: int | None, code: int) -> None:
    bench = Bench(session=Recorder(echoing)).begin()
    bench.hear(text(b"a"), said, text(b"after"))
    assert [frame.opcode for frame in bench.said()] == [TEXT, CLOSE]
    assert bench.session.messages == [b"a"]
    assert bench.transport.eof_written
    assert bench.link.close_code == code
    assert answer is None or answer == code


def test_our_close_waits_for_the_peers() -> None:
    bench = Bench(SHORT).begin()
    bench.link.close(4409)
    assert bench.said_codes() == [4409]
    assert not bench.link.is_open
    bench.hear(text(b"too late"), frame(PING), close(4409))
    assert bench.session.messages == []
    assert bench.said() == []
    assert bench.transport.eof_written


def test_a_peer_that_never_answers_a_close_is_dropped() -> None:
    bench = Bench(SHORT).begin()
    bench.link.close(4403)
    bench.loop.pass_time(4)
    assert bench.session.calls == ["attached", "lost"]
    assert bench.link.close_code == 4403


def test_a_peer_that_never_closes_its_side_is_dropped() -> None:
    bench = Bench(SHORT).begin()
    bench.hear(close(1000))
    assert not bench.transport.is_aborted
    bench.loop.pass_time(4)
    assert bench.session.calls == ["attached", "lost"]


def test_closing_twice_says_it_once() -> None:
    bench = Bench().begin()
    bench.link.close(4403)
    bench.link.close(1012)
    bench.link.shutdown()
    assert bench.said_codes() == [4403]


def test_a_close_while_paused_still_hears_the_peers() -> None:
    bench = Bench(session=Recorder(on(b"1", Link.pause))).begin()
    bench.hear(*map(text, numbered(4)), close(1000))
    bench.link.close(1012)
    bench.loop.settle()
    assert bench.session.messages == numbered(2)
    assert bench.said_codes() == [1012]
    assert bench.transport.eof_written


def test_a_session_may_close_amid_a_message() -> None:
    bench = Bench(session=Recorder(on(b"1", lambda link: link.close(4403)))).begin()
    bench.hear(*map(text, numbered(4)), close(4403))
    assert bench.session.messages == numbered(2)
    assert bench.said_codes() == [4403]
    assert bench.transport.eof_written


def test_a_session_may_abort_amid_a_message() -> None:
    def answer_and_abort(link: Link) -> None:
        link.send(b"unheard")
        link.abort()

    bench = Bench(session=Recorder(on(b"1", answer_and_abort))).begin()
    bench.hear(*map(text, numbered(4)))
    assert bench.session.messages == numbered(2)
    assert bench.session.calls == ["attached", "lost"]
    assert bench.said() == []


def test_after_the_end_nothing_is_sent_and_nothing_raises() -> None:
    bench = Bench().begin()
    bench.transport.lose()
    bench.link.send(b"a")
    bench.link.send_frames(b"\x81\x00")
    bench.link.pause()
    bench.link.resume()
    bench.link.close(1000)
    bench.link.abort()
    bench.link.data_received(text(b"a"))
    bench.loop.pass_time(60)
    assert bench.session.calls == ["attached", "lost"]
    assert bench.said() == []
    assert bench.peers == set()


def test_the_end_of_the_stream_is_the_end() -> None:
    bench = Bench().begin()
    bench.link.eof_received()
    bench.link.send(b"a")
    bench.transport.lose()
    assert (bench.said(), bench.link.close_code) == ([], 1006)


def test_a_reader_that_left_half_way_is_not_waited_for() -> None:
    bench = Bench(SHORT).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 10 * KIB)
    bench.link.eof_received()
    bench.loop.pass_time(4)
    assert bench.session.calls == ["attached", "lost"]


def test_over_tls_the_transport_says_its_own_goodbye() -> None:
    bench = Bench(has_eof=False).begin()
    bench.hear(frame(2, b"binary"))
    assert bench.said_codes() == [1003]
    assert bench.transport.is_closed


def test_a_connection_lost_before_its_session_came_is_told_as_both() -> None:
    bench = Bench(session=Recorder())
    bench.link.begin_lost()
    assert bench.session.calls == ["attached"]
    assert not bench.link.is_open
    bench.link.send(b"a")
    bench.loop.settle()
    assert bench.session.calls == ["attached", "lost"]


# Our own faults


def logged_once(caplog: pytest.LogCaptureFixture) -> bool:
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    return len(errors) == 1 and errors[0].exc_info is not None


def test_an_exception_over_a_message_is_1011_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(session=Recorder(failing)).begin()
    bench.hear(text(b"a"), text(b"boom"), text(b"after"))
    bench.hear(text(b"later"))
    assert bench.said_codes() == [1011]
    assert bench.session.messages == [b"a", b"boom"]
    assert logged_once(caplog)


@pytest.mark.parametrize("name", ["attached", "on_writable", "on_lost"])
def test_an_exception_anywhere_else_harms_nobody(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ValueError(name)

    session = Recorder()
    setattr(session, name, fail)
    bench = Bench(SHORT, session).begin()
    bench.transport.peer_reads = False
    bench.link.send(b"a" * 100 * KIB)
    bench.transport.take(100 * KIB)
    codes = bench.said_codes()
    bench.transport.lose()
    assert logged_once(caplog)
    assert codes == ([] if name == "on_lost" else [1011])
    assert (session.calls[-1:] == ["lost"]) is (name != "on_lost")


def test_a_link_that_is_gone_holds_nobody() -> None:
    bench = Bench().begin()
    bench.transport.lose()
    held = gc.get_referents(bench.link)
    assert bench.session not in held
    assert bench.transport not in held


def test_a_link_that_is_gone_is_freed_without_the_collector() -> None:
    """A process that freezes what it has would keep a cycle for ever."""

    def live() -> int:
        return sum(type(found) is Link for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = live()
        bench = Bench(SHORT, Recorder(echoing)).begin(text(b"early"))
        bench.hear(text(b"a"), large()[:-1])
        bench.link.pause()
        bench.transport.lose()
        bench.loop.pass_time(10)
        bench.session.link = None
        del bench.link
        assert live() == before
    finally:
        gc.enable()


# Deflate


def test_a_deflated_message_is_handed_over_and_answered_plain() -> None:
    bench = Bench(session=Recorder(echoing), is_deflated=True).begin()
    bench.hear(frame(TEXT, deflated(b"a" * 500), rsv=4))
    assert bench.said() == [Frame(0x81, b"a" * 500)]


# Cost


def test_an_idle_link_takes_less_than_a_kilobyte_of_its_own() -> None:
    limits, loop, count = Limits(), FakeLoop(), 1000
    wheel = loop.new_wheel()
    parts: Sequence[tuple[FakeTransport, Recorder]] = [(FakeTransport(loop), Recorder()) for _ in range(count)]
    peers: set[object] = set()
    links: list[Link] = []
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for transport, session in parts:
        link = Link(transport, session, limits, wheel, peers)
        transport.protocol = link
        link.begin()
        link.data_received(text(b"hello"))
        links.append(link)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / count < 1024


def test_an_idle_link_has_no_dict() -> None:
    assert not hasattr(Bench().begin().link, "__dict__")
